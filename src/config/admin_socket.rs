//! The key `admin_socket`: where the operator's socket is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The place of the operator's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub enum AdminSocket {
    /// Beside the feed's socket, whose name it has with the ending `.admin`. Written as an empty
    /// text.
    #[default]
    BesideFeed,
    /// There is no such socket. Written as `off`.
    Off,
    /// The socket has this path.
    Path(PathBuf),
}

impl From<String> for AdminSocket {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" => Self::BesideFeed,
            "off" => Self::Off,
            _ => Self::Path(PathBuf::from(text)),
        }
    }
}

impl From<AdminSocket> for String {
    fn from(socket: AdminSocket) -> Self {
        match socket {
            AdminSocket::BesideFeed => Self::new(),
            AdminSocket::Off => Self::from("off"),
            // A configuration is UTF-8, so the path is UTF-8.
            AdminSocket::Path(path) => path.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_one_text() {
        for (text, expected) in [
            ("", AdminSocket::BesideFeed),
            ("off", AdminSocket::Off),
            ("/run/a.sock", AdminSocket::Path("/run/a.sock".into())),
        ] {
            let socket = AdminSocket::from(String::from(text));
            assert_eq!(socket, expected);
            assert_eq!(String::from(socket), text);
        }
    }
}
