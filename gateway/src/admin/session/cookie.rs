//! The session cookie (RFC 6265), and whether a request was made by a page of ours.

use http::header::{COOKIE, HOST, ORIGIN};
use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderValue};
use trunkline_common::digest::sha256;
use trunkline_common::ids::Domain;

/// The header that a request which changes something carries beside the cookie.
pub(in super::super) const CSRF_HEADER: &str = "x-trunkline-csrf";

/// What our cookie is called. Cookies do not know ports, so gateways on one host must not share a name.
pub(super) fn name(domain: &Domain) -> String {
    let hash = sha256(domain.as_str().as_bytes());
    let digits = hash.iter().take(4).map(|byte| format!("{byte:02x}"));
    format!("trunkline_{}", digits.collect::<String>())
}

/// Its value, as the browser sent it.
pub(super) fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(given, _)| *given == name).map(|(_, value)| value).find(|value| !value.is_empty())
}

/// Makes the browser keep it until it is closed.
pub(super) fn set(name: &str, secret: &str, secure: bool) -> Option<HeaderValue> {
    line(name, secret, "", secure)
}

/// Makes the browser forget it.
pub(super) fn clear(name: &str, secure: bool) -> Option<HeaderValue> {
    line(name, "", "; Max-Age=0", secure)
}

fn line(name: &str, value: &str, age: &str, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{age}{secure}");
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Whether `Origin`, when there is one, is the host that was asked. The scheme does not count: a proxy in front of us
/// may speak TLS for us.
pub(in super::super) fn is_same_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let asked =
        headers.get(HOST).and_then(|host| host.to_str().ok()).or(uri.authority().map(Authority::as_str));
    let (Some(asked), Some((scheme, host))) =
        (asked, origin.to_str().ok().and_then(|origin| origin.split_once("://")))
    else {
        return false;
    };
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    let plain = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    plain(host) == plain(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn two_gateways_on_one_host_have_cookies_of_different_names() {
        let of = |domain: &str| name(&domain.parse().unwrap());
        assert_ne!(of("alpha.test"), of("beta.test"));
        assert_eq!(of("alpha.test").len(), "trunkline_".len() + 8);
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let mut found = headers(&[(COOKIE, "a=b; trunkline_1=; trunkline_12=no; trunkline_1=yes")]);
        assert_eq!(read(&found, "trunkline_1"), Some("yes"));
        assert_eq!(read(&found, "b"), None);
        found.append(COOKIE, "c=d".parse().unwrap());
        assert_eq!(read(&found, "c"), Some("d"));
        assert_eq!(read(&headers(&[(COOKIE, ";;=;x")]), "x"), None);
    }

    #[test]
    fn a_script_cannot_read_it_and_another_site_cannot_send_it() {
        let plain = set("n", "tls_secret", false).unwrap();
        assert_eq!(plain, "n=tls_secret; Path=/; HttpOnly; SameSite=Strict");
        assert!(!format!("{plain:?}").contains("secret"), "nor a log show it");
        assert!(set("n", "s", true).unwrap().to_str().unwrap().ends_with("; Secure"));
        assert_eq!(clear("n", false).unwrap(), "n=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    }

    #[test]
    fn only_our_own_pages_are_of_the_same_origin() {
        let uri: Uri = "/admin/v1/session".parse().unwrap();
        for (origin, host, same) in [
            ("http://127.0.0.1:8441", "127.0.0.1:8441", true),
            ("https://Console.Test", "console.test:443", true),
            ("https://console.test", "console.test", true),
            ("http://127.0.0.1:8442", "127.0.0.1:8441", false),
            ("https://evil.test", "console.test", false),
            ("http://console.test:443", "console.test", false),
            ("null", "console.test", false),
            ("file://console.test", "console.test", false),
        ] {
            let headers = headers(&[(ORIGIN, origin), (HOST, host)]);
            assert_eq!(is_same_origin(&uri, &headers), same, "{origin} {host}");
        }
        assert!(is_same_origin(&uri, &HeaderMap::new()));
        assert!(!is_same_origin(&uri, &headers(&[(ORIGIN, "https://console.test")])));
        let absolute: Uri = "https://console.test/".parse().unwrap();
        assert!(is_same_origin(&absolute, &headers(&[(ORIGIN, "https://console.test")])), "HTTP/2");
    }
}
