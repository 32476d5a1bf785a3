//! What the fuzz targets call.

pub mod node;
pub mod parsers;
pub mod relay;
