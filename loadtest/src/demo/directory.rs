//! Who is at a deployment, and who else there is to write to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use trunkline_common::token::{self, TokenHash};

use uuid::Uuid;

use super::mailbox::Mailbox;

/// Text before what opens a person's page, so that a leaked one can be recognised.
const TOKEN_PREFIX: &str = "tlp";

/// Envelopes whose senders are remembered until their receipts come. More costs some 60 bytes each.
const SENT_MAX: usize = 10_000;

/// The people of a deployment.
pub(crate) const PEOPLE: [(&str, [&str; 2]); 2] =
    [("alpha.test", ["ann", "amir"]), ("beta.test", ["ben", "bea"])];

/// One person.
pub(crate) struct Person {
    /// Such as `ann`.
    pub(crate) name: &'static str,
    /// Such as `ann@alpha.test`.
    pub(crate) address: String,
    /// What opens this person's page.
    pub(crate) token: String,
    /// What waits for that page.
    pub(crate) mailbox: Arc<Mailbox>,
    hash: TokenHash,
}

/// The people of one deployment.
pub(crate) struct Directory {
    /// All of them.
    pub(crate) people: Vec<Person>,
    /// The addresses of everybody, here and elsewhere.
    pub(crate) everybody: Vec<String>,
    sent: Mutex<Sent>,
}

/// Who sent what, the latest of it.
#[derive(Default)]
struct Sent {
    senders: HashMap<Uuid, usize>,
    order: VecDeque<Uuid>,
}

impl Directory {
    /// Of a deployment.
    pub(crate) fn of(domain: &str) -> Self {
        let here = PEOPLE.iter().filter(|(of, _)| *of == domain).flat_map(|(_, names)| names);
        let people = here.map(|name| Person::new(name, domain)).collect();
        let everybody = PEOPLE
            .iter()
            .flat_map(|(domain, names)| names.iter().map(move |name| format!("{name}@{domain}")))
            .collect();
        Self { people, everybody, sent: Mutex::default() }
    }

    /// Whose token this is: the place in [`Self::people`].
    pub(crate) fn by_token(&self, token: &str) -> Option<usize> {
        self.people.iter().position(|person| person.hash.matches(token))
    }

    /// Remembers who sends an envelope. False when the id is known: it stays with who sent it first, so that nobody gets
    /// a neighbour's receipts by sending the neighbour's id again.
    pub(crate) fn sends(&self, id: Uuid, address: &str) -> bool {
        let Some(at) = self.people.iter().position(|person| person.address == address) else { return false };
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.senders.contains_key(&id) {
            return false;
        }
        sent.senders.insert(id, at);
        sent.order.push_back(id);
        while sent.order.len() > SENT_MAX {
            let Some(oldest) = sent.order.pop_front() else { break };
            sent.senders.remove(&oldest);
        }
        true
    }

    /// Who sent an envelope.
    pub(crate) fn sender_of(&self, id: &Uuid) -> Option<&Person> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        self.people.get(*sent.senders.get(id)?)
    }

    /// Whose address this is.
    pub(crate) fn by_address(&self, address: &str) -> Option<&Person> {
        self.people.iter().find(|person| person.address == address)
    }
}

impl Person {
    fn new(name: &'static str, domain: &str) -> Self {
        let token = token::generate(TOKEN_PREFIX).to_string();
        let hash = TokenHash::of(&token);
        Self { name, address: format!("{name}@{domain}"), token, mailbox: Mailbox::new(), hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_one_page() {
        let directory = Directory::of("beta.test");
        let names: Vec<_> = directory.people.iter().map(|person| person.address.as_str()).collect();
        assert_eq!(names, ["ben@beta.test", "bea@beta.test"]);
        assert_eq!(directory.everybody.len(), 4);
        for (at, person) in directory.people.iter().enumerate() {
            assert_eq!(directory.by_token(&person.token), Some(at));
            assert!(directory.by_token(person.name).is_none());
        }
    }

    #[test]
    fn receipts_stay_with_who_sent_an_id_first() {
        let directory = Directory::of("alpha.test");
        let id = Uuid::new_v4();
        assert!(directory.sends(id, "ann@alpha.test"));
        assert!(!directory.sends(id, "amir@alpha.test"));
        assert_eq!(directory.sender_of(&id).map(|person| person.name), Some("ann"));
    }
}
