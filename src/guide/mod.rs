//! The guide for users, with one page per topic.
//!
//! The pages are Markdown files in `src/guide`. `fanfare help TOPIC` prints a page. The man pages
//! `fanfare.toml(5)` and `fanfare-protocol(7)` are made of the pages `configuration` and
//! `protocol`. Tests run the examples of the pages and compare the references with the code.

#![expect(clippy::doc_markdown, reason = "the pages are prose for users")]

/// A page of the guide.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The name of the topic, as in `fanfare help TOPIC`.
    pub name: &'static str,
    /// The text in Markdown. The first line is `# ` and the title.
    pub text: &'static str,
}

impl Page {
    /// Returns the title of the page.
    #[must_use]
    pub fn title(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches("# ")
    }
}

/// Returns the page with this topic.
#[must_use]
pub fn page(name: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.name == name)
}

/// Declares a module for each page, so that rustdoc shows the page, and the list of all pages.
/// The link definitions before the text lead to the modules. They have priority over the
/// definitions at the end of the text, which lead to the files.
macro_rules! pages {
    ($($module:ident $name:literal)*) => {
        $(
            #[doc = "[getting-started]: crate::guide::getting_started"]
            #[doc = "[transports]: crate::guide::transports"]
            #[doc = "[publishing]: crate::guide::publishing"]
            #[doc = "[subscribing]: crate::guide::subscribing"]
            #[doc = "[delivery]: crate::guide::delivery"]
            #[doc = "[authorization]: crate::guide::authorization"]
            #[doc = "[browsers]: crate::guide::browsers"]
            #[doc = "[backends]: crate::guide::backends"]
            #[doc = "[namespaces]: crate::guide::namespaces"]
            #[doc = "[tls]: crate::guide::tls"]
            #[doc = "[proxies]: crate::guide::proxies"]
            #[doc = "[operations]: crate::guide::operations"]
            #[doc = "[capacity]: crate::guide::capacity"]
            #[doc = "[security]: crate::guide::security"]
            #[doc = "[troubleshooting]: crate::guide::troubleshooting"]
            #[doc = "[protocol]: crate::guide::protocol"]
            #[doc = "[configuration]: crate::guide::configuration"]
            #[doc = "[metrics]: crate::guide::metrics"]
            #[doc = "[benchmarks]: crate::guide::benchmarks"]
            #[doc = "[design]: crate::guide::design"]
            #[doc = ""]
            #[doc = include_str!(concat!($name, ".md"))]
            pub mod $module {}
        )*

        /// All pages, in the order in which a new user reads them.
        pub const PAGES: &[Page] = &[
            $(Page { name: $name, text: include_str!(concat!($name, ".md")) },)*
        ];
    };
}

pages! {
    getting_started "getting-started"
    transports "transports"
    publishing "publishing"
    subscribing "subscribing"
    delivery "delivery"
    authorization "authorization"
    browsers "browsers"
    backends "backends"
    namespaces "namespaces"
    tls "tls"
    proxies "proxies"
    operations "operations"
    capacity "capacity"
    security "security"
    troubleshooting "troubleshooting"
    protocol "protocol"
    configuration "configuration"
    metrics "metrics"
    benchmarks "benchmarks"
    design "design"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_a_title_and_links_only_to_pages() {
        for page in PAGES {
            assert!(page.text.starts_with("# "), "{}", page.name);
            assert!(!page.title().is_empty(), "{}", page.name);
            for line in page.text.lines() {
                let definition = line
                    .strip_prefix('[')
                    .and_then(|line| line.split_once("]: "));
                let Some((label, target)) = definition else {
                    continue;
                };
                let is_page = super::page(label).is_some() && target == format!("{label}.md");
                let is_elsewhere = target.starts_with("https://");
                assert!(is_page || is_elsewhere, "{}: {line}", page.name);
                let uses = page.text.matches(&format!("[{label}]")).count();
                assert!(uses > 1, "{}: {label} is not used", page.name);
            }
        }
    }
}
