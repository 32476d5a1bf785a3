//! What the demo prints for somebody with a browser: links first.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::console::ADMINISTRATOR;
use super::deployment::Deployment;

/// All of it for programs.
pub(crate) fn report(alpha: &Deployment, beta: &Deployment, call: &str) -> Value {
    let people: Map<String, Value> = [alpha, beta]
        .into_iter()
        .flat_map(|deployment| {
            deployment
                .server
                .people()
                .map(|person| (person.address.clone(), json!(deployment.server.link(person))))
        })
        .collect();
    json!({
        "scenario": "demo",
        "alpha": alpha.access(),
        "beta": beta.access(),
        "call": call,
        "people": people,
    })
}

/// All of it for people.
pub(crate) fn text(alpha: &Deployment, beta: &Deployment, call: &str, root: &Path, fresh: bool) -> String {
    let mut lines = vec![String::new()];
    for deployment in [alpha, beta] {
        lines.push(format!("  console of {:<11} {}", deployment.gateway.domain, deployment.console()));
        let password = &deployment.password;
        lines.push(format!("  {:<22} name {ADMINISTRATOR}   password {password}", ""));
    }
    lines.push(format!("  a call                 {call}"));
    lines.push(String::new());
    lines.push("Messaging pages, one person each:".to_owned());
    for deployment in [alpha, beta] {
        for person in deployment.server.people() {
            lines.push(format!("  {:<22} {}", person.address, deployment.server.link(person)));
        }
    }
    lines.push(
        "  A person's key is made when the page is opened for the first time: what is written to amir or bea before \
         waits until then."
            .to_owned(),
    );
    lines.push(String::new());
    lines.push("The tour:".to_owned());
    let first = if fresh {
        "The two do not know each other: in one console invite the other domain, accept the file in the other."
    } else {
        "Open both consoles: the two are peered, and everything you do next shows there while it happens."
    };
    let tour = [
        first,
        "Open ann's and ben's pages side by side and write: sealed in the page, marked when it is delivered.",
        "Pause beta.test in alpha's console and write on: the queue grows; resume, and it drains.",
        "Restrict the network in beta's console and write: refused, with the reason on ann's page.",
        "Start a call on ann's page, choose Ben, invite: Join on ben's page opens the call that alpha hosts.",
    ];
    lines.extend(tour.iter().zip(1..).map(|(line, number)| format!("  {number}. {line}")));
    lines.push(String::new());
    lines.push(format!("Directories, configurations and logs: {}", root.display()));
    lines.push(
        "  alpha.test, beta.test: gateway/gateway.log, relay/relay.log, ingress/ingress.log".to_owned(),
    );
    lines.push("Ctrl-C stops all of it.".to_owned());
    lines.join("\n")
}
