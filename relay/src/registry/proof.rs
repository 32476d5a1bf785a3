//! Who may say something in the registry: whoever has the deployment's ufrag key, which nodes and ingresses share and the
//! database never sees. An ingress passes tokens of people and operators on to nodes, so a row that anybody could write
//! would be a way to get at them.

use aws_lc_rs::hmac;

/// What the key of proofs is derived for.
const PURPOSE: &[u8] = b"trunkline relay registry 1";

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// Makes proofs, and sees whether one is good.
#[derive(Clone)]
pub struct Prover(hmac::Key);

impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prover")
    }
}

impl Prover {
    /// With the key that nodes and ingresses share.
    #[must_use]
    pub fn derive(ufrag_key: &[u8; 32]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, ufrag_key), PURPOSE);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The proof of a row with these fields; `kind` is its table.
    #[must_use]
    pub fn prove(&self, kind: &str, fields: &[&str]) -> Vec<u8> {
        hmac::sign(&self.0, &message(kind, fields)).as_ref().to_vec()
    }

    /// Whether a proof is of such a row.
    #[must_use]
    pub fn holds(&self, kind: &str, fields: &[&str], proof: &[u8]) -> bool {
        hmac::verify(&self.0, &message(kind, fields), proof).is_ok()
    }
}

/// The fields, each behind its length, so that nothing can be moved from one to the next.
fn message(kind: &str, fields: &[&str]) -> Vec<u8> {
    let all = std::iter::once(kind).chain(fields.iter().copied());
    all.flat_map(|field| (field.len() as u64).to_be_bytes().into_iter().chain(field.bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_own_row_and_key_alone() {
        let prover = Prover::derive(&[1; 32]);
        let proof = prover.prove("node", &["1", "ab"]);
        assert_eq!(proof.len(), PROOF_BYTES);
        assert!(prover.holds("node", &["1", "ab"], &proof));
        for (kind, fields) in [("ingress", ["1", "ab"]), ("node", ["1a", "b"]), ("node", ["2", "ab"])] {
            assert!(!prover.holds(kind, &fields, &proof), "{kind} {fields:?}");
        }
        assert!(!Prover::derive(&[2; 32]).holds("node", &["1", "ab"], &proof));
        assert!(!prover.holds("node", &["1", "ab"], &[]));
    }
}
