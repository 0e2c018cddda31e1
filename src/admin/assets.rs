//! The dashboard's files, in the binary: nothing is fetched from elsewhere, nothing is built to install it.

use std::sync::LazyLock;

/// One file of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asset {
    /// Where it is asked for.
    pub(super) path: &'static str,
    /// Its `Content-Type`.
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($path:literal, $kind:expr, $file:literal) => {
        Asset { path: $path, kind: $kind, text: include_str!(concat!("dashboard/", $file)) }
    };
}

/// Every file; the page itself comes first.
pub(super) static ASSETS: [Asset; 13] = [
    asset!("/", HTML, "index.html"),
    asset!("/dashboard/style.css", CSS, "style.css"),
    asset!("/dashboard/icon.svg", SVG, "icon.svg"),
    asset!("/dashboard/app.js", JS, "app.js"),
    asset!("/dashboard/stream.js", JS, "stream.js"),
    asset!("/dashboard/dom.js", JS, "dom.js"),
    asset!("/dashboard/format.js", JS, "format.js"),
    asset!("/dashboard/history.js", JS, "history.js"),
    asset!("/dashboard/charts.js", JS, "charts.js"),
    asset!("/dashboard/routes.js", JS, "routes.js"),
    asset!("/dashboard/split.js", JS, "split.js"),
    asset!("/dashboard/backends.js", JS, "backends.js"),
    asset!("/dashboard/decisions.js", JS, "decisions.js"),
];

/// What the page may load and reach: its own files and its own listener. Scripts get no way to make HTML of a text.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Names the contents of all files of this binary.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let bytes = ASSETS.iter().flat_map(|asset| asset.text.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("\"{hash:016x}\"")
});

impl Asset {
    /// The file of a path.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.path == path)
    }

    /// Its `ETag`: the same for all, since they fit together in one version only.
    pub(super) fn tag() -> &'static str {
        &TAG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_its_modules_name_only_files_that_are_there() {
        for asset in &ASSETS {
            let quoted = asset.text.split('"').filter(|text| text.starts_with("/dashboard/") || text.starts_with("./"));
            for name in quoted {
                let path = name.replacen("./", "/dashboard/", 1);
                assert!(Asset::of(&path).is_some(), "{} names {name}", asset.path);
            }
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_has_nothing_inline() {
        for asset in &ASSETS {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{} names another host", asset.path);
            for risky in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text.contains(risky), "{} uses {risky}", asset.path);
            }
        }
        let page = ASSETS[0].text;
        let inline = [" style=", " onclick=", " onload=", "<style", "<script>"];
        assert!(inline.iter().all(|one| !page.contains(one)) && page.matches("<script").count() == 1, "{page}");
    }
}
