//! What the hot paths cost: criterion benches stand in `benches`, larger measurements in `examples`.
//!
//! # Layout
//! - [`fanout`]: the limit of the relay's job on this machine, which load tests hold the relay against

pub mod fanout;
