//! x
mod body;
pub mod decode;
pub mod dedupe;
pub mod draft;
mod fields;
pub mod minify;
pub mod publish;
pub mod refusal;
pub mod request;
