//! The envelope's `webhook`: its shape and its bounds. Which addresses and secrets there are is not known here.

use super::fields::Fields;
use crate::webhook::{MAX_SECRET_NAME_BYTES, MAX_URL_BYTES, Target};

/// Reads `webhook`.
pub(super) fn target(f: &mut Fields) -> Option<Target> {
    let map = f.object("webhook")?;
    let mut inner = Fields::new(map, "webhook.");
    let url = inner.required_text("url").filter(|url| bounded(&mut inner, "url", url, MAX_URL_BYTES));
    let secret_ref = inner.text("secretRef").filter(|name| {
        if name.trim().is_empty() {
            inner.problem("secretRef", "must not be blank");
        }
        bounded(&mut inner, "secretRef", name, MAX_SECRET_NAME_BYTES)
    });
    f.absorb(inner);
    Some(Target { url: url?, secret_ref })
}

fn bounded(f: &mut Fields, field: &str, text: &str, max: usize) -> bool {
    if text.len() > max {
        f.problem(field, format!("must be at most {max} bytes, got {}", text.len()));
    }
    text.len() <= max
}
