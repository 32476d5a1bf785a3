//! What the fuzz targets call.

pub mod parsers;
pub mod relay;
