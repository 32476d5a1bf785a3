//! The console: pages that operators see, served on the admin API's port. They take everything from that API.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use trunkline_http::files::{self, CSS, File, HTML, JAVASCRIPT, Policy, SVG};

/// Where the console is.
const CONSOLE: &str = "/console";

/// A file of `gateway/web` by its path there: one line each, and nothing else to be done for a new one.
macro_rules! file {
    ($name:literal, $media_type:expr) => {
        (concat!("/console/", $name), $media_type, include_str!(concat!("../web/", $name)))
    };
}

const FILES: &[File] = &[
    (CONSOLE, HTML, include_str!("../web/index.html")),
    file!("pages.css", CSS),
    file!("parts.css", CSS),
    file!("style.css", CSS),
    file!("api.js", JAVASCRIPT),
    file!("app.js", JAVASCRIPT),
    file!("attention.js", JAVASCRIPT),
    file!("chart.js", JAVASCRIPT),
    file!("dialog.js", JAVASCRIPT),
    file!("dom.js", JAVASCRIPT),
    file!("figures.js", JAVASCRIPT),
    file!("form.js", JAVASCRIPT),
    file!("format.js", JAVASCRIPT),
    file!("gate.js", JAVASCRIPT),
    file!("icon.svg", SVG),
    file!("live.js", JAVASCRIPT),
    file!("parts.js", JAVASCRIPT),
    file!("password.js", JAVASCRIPT),
    file!("qr.js", JAVASCRIPT),
    file!("scale.js", JAVASCRIPT),
    file!("table.js", JAVASCRIPT),
    file!("toast.js", JAVASCRIPT),
    file!("pages/access.js", JAVASCRIPT),
    file!("pages/account.js", JAVASCRIPT),
    file!("pages/audit.js", JAVASCRIPT),
    file!("pages/calls.js", JAVASCRIPT),
    file!("pages/certificates.js", JAVASCRIPT),
    file!("pages/doctor.js", JAVASCRIPT),
    file!("pages/domains.js", JAVASCRIPT),
    file!("pages/general.js", JAVASCRIPT),
    file!("pages/identity.js", JAVASCRIPT),
    file!("pages/network.js", JAVASCRIPT),
    file!("pages/networks.js", JAVASCRIPT),
    file!("pages/outbox.js", JAVASCRIPT),
    file!("pages/overview.js", JAVASCRIPT),
    file!("pages/peer.js", JAVASCRIPT),
    file!("pages/peering.js", JAVASCRIPT),
    file!("pages/peers.js", JAVASCRIPT),
    file!("pages/queue.js", JAVASCRIPT),
    file!("pages/settings.js", JAVASCRIPT),
];

/// The pages need nothing beyond their own files and the admin API.
const POLICY: Policy = Policy {
    directives: "",
    sockets: false,
    permissions: "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
};

/// The console's files. `/` leads to them.
pub fn router() -> Router {
    let to_console = || get(async || Redirect::temporary(CONSOLE));
    files::router(FILES, POLICY).route("/", to_console()).route("/console/", to_console())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files_in(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files_in(&path, found) } else { found.push(path) }
        }
    }

    #[test]
    fn every_file_of_the_console_is_served_and_no_other() {
        let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut found = Vec::new();
        files_in(&web, &mut found);
        let names = found.iter().map(|path| path.strip_prefix(&web).unwrap().to_str().unwrap().to_owned());
        // Its tests and its documentation are for us.
        let names = names.filter(|name| !name.starts_with("test/") && !name.ends_with(".md"));
        let on_disk: BTreeSet<String> = names.filter(|name| name != "index.html").collect();
        let served = FILES.iter().filter_map(|(path, _, _)| path.strip_prefix("/console/"));
        assert_eq!(served.map(str::to_owned).collect::<BTreeSet<_>>(), on_disk);
    }

    #[test]
    fn a_page_has_nothing_inline_and_nothing_from_elsewhere() {
        for (path, _, content) in FILES.iter().filter(|(_, media_type, _)| *media_type == HTML) {
            for wrong in ["<style", " style=", " onclick=", "javascript:"] {
                assert!(!content.contains(wrong), "{path} has {wrong}, which its policy forbids");
            }
        }
    }
}
