//! Networks and their messaging servers: what is recognised, what is kept, what goes.

use trunkline_gateway_proto::admin::{AdminError, AdminOp};
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::Stream;
use trunkline_gateway_proto::wire;

use crate::scene::{ALPHA, BETA, MAIN, RECEIPTS, SECOND, letter, letters, pair, wait_receipts};
use crate::world::{World, domain};
