//! Integration tests of the relay, in one binary.

mod web;
