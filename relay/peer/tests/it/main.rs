//! Peers on real calls, in memory and in virtual time.

mod call;
mod scoreboard;
