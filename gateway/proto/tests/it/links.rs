//! Links: who is let in, who is not, and what ends one.

use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::wire::{self, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, letters, pair, pair_with, wait_receipts};
