//! What the hot paths cost: criterion benches stand in `benches`, larger measurements in `examples`.
//!
//! # Layout
//! - [`fanout`]: the limit of the relay's job on this machine, which load tests hold the relay against
//! - [`stream`]: the same where receivers are reached over TCP or TLS
//! - [`forward`]: the limit of the ingress's job
//! - [`spray`]: datagrams from everywhere, for floods

pub mod fanout;
pub mod forward;
pub mod spray;
pub mod stream;
