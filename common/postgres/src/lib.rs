//! A way into a PostgreSQL server, 15 or newer, for all that keep something there.
//!
//! # Layout
//! - [`address`]: where the database is, as settings say it
//! - `tls`: TLS with rustls
//! - [`access`]: all that a connection needs, and the connection
//! - [`failure`]: what the server's errors mean for who asked
//! - [`schema`]: tables, made in numbered steps
//! - [`settings`]: all of it, as a program's configuration says it

pub mod access;
pub mod address;
pub mod failure;
pub mod schema;
pub mod settings;
mod tls;

pub use access::Access;
pub use address::{Address, Protection};
pub use failure::Failure;
/// The client that everything is asked with.
pub use tokio_postgres as client;
