//! stub
pub mod cors;
