//! x

pub mod web;
