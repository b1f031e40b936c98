//! What an envelope says of the shared volume: where its work stands, and where its outcome goes.
//!
//! Owns: the bounds of paths, and what a file of inputs may say. Must not know: where the volume is, or how a file is read.

use serde_json::Value;

use super::fields::Fields;
use super::{Invalid, Problem, Spec, Work, not_an_object};
use crate::volume::{MAX_PATH_BYTES, Place};

/// Largest file of inputs, in bytes: as much as a request's body may hold by default.
pub const MAX_INPUTS_BYTES: usize = 8 * 1024 * 1024;

/// Longest name of a result file, in bytes: what stands beside it has a longer one, and file systems allow 255.
const MAX_NAME_BYTES: usize = 200;

/// Reads a path; what it names is for others to say.
pub(super) fn path(f: &mut Fields, field: &str) -> Option<String> {
    let path = f.text(field)?;
    let problem = if path.trim().is_empty() {
        Some("must not be blank".to_owned())
    } else {
        (path.len() > MAX_PATH_BYTES).then(|| format!("must be at most {MAX_PATH_BYTES} bytes, got {}", path.len()))
    };
    if let Some(problem) = problem {
        f.problem(field, problem);
        return None;
    }
    Some(path)
}

impl Spec {
    /// Makes places of the paths that the envelope names.
    ///
    /// # Errors
    /// [`Invalid`] names the field and what is wrong with it.
    pub fn locate(&mut self, place: impl Fn(&str) -> Result<Place, String>) -> Result<(), Invalid> {
        let mut problems = Vec::new();
        let mut at = |field: &str, it: &mut Place| {
            match place(&it.path.to_string_lossy()) {
                Ok(found) => *it = found,
                Err(message) => problems.push(Problem { field: field.to_owned(), message }),
            };
        };
        let mut inputs = None;
        if let Work::Inputs { inputs: it } = &mut self.work {
            at("inputsRef", it);
            inputs = Some(it.clone());
        }
        if let Some(it) = &mut self.result_ref {
            at("resultRef", it);
            let too_long = it.path.file_name().is_some_and(|name| name.len() > MAX_NAME_BYTES);
            let message = if inputs.as_ref() == Some(it) {
                Some("must not be the file that `inputsRef` names".to_owned())
            } else {
                too_long.then(|| format!("must end with a name of at most {MAX_NAME_BYTES} bytes"))
            };
            problems.extend(message.map(|message| Problem { field: "resultRef".to_owned(), message }));
        }
        if problems.is_empty() { Ok(()) } else { Err(Invalid(problems)) }
    }

    /// Whether the run needs the shared volume, and which field says so.
    #[must_use]
    pub fn needs_volume(&self) -> Option<&'static str> {
        if matches!(self.work, Work::Inputs { .. }) {
            return Some("inputsRef");
        }
        self.result_ref.as_ref().map(|_| "resultRef")
    }
}

/// Reads the work that a file of inputs says: the envelope's fields `prompt`, or `item` with or without `kind`.
///
/// # Errors
/// [`Invalid`] names every field that is wrong, unknown or missing.
pub fn read_inputs(bytes: &[u8], beside_schema: bool) -> Result<Work, Invalid> {
    let whole = |message: String| Invalid(vec![Problem { field: "file".into(), message }]);
    let text = std::str::from_utf8(bytes)
        .map_err(|e| whole(format!("must be UTF-8, and is not from byte {} on", e.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let body: Value = serde_json::from_str(text).map_err(|e| whole(format!("must be JSON: {e}")))?;
    let Value::Object(map) = body else { return Err(not_an_object()) };
    let mut f = Fields::new(map, "");
    let prompt = f.text("prompt");
    let item = f.object("item").map(|item| super::parse_item(item, &mut f));
    match f.text("kind").as_deref() {
        None => {}
        Some("converge") if item.is_some() || !f.is_clean() => {}
        Some("converge") => f.problem("item", "is required with `kind` \"converge\""),
        Some(_) => f.problem("kind", "must be \"converge\" (or absent)"),
    }
    if item.is_some() && beside_schema {
        f.problem("item", "must not be given beside `outputSchema`: a review ends with a verdict");
    }
    let work =
        super::work(&mut f, prompt, item, "or `item` is required: a file of inputs says exactly one kind of work");
    let problems = f.finish();
    match work {
        Some(work) if problems.is_empty() => Ok(work),
        _ => Err(Invalid(problems)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::parse;
    use super::*;
    use crate::volume::relative;

    fn problems(result: Result<impl Sized, Invalid>) -> Vec<String> {
        let Err(Invalid(problems)) = result else { return Vec::new() };
        problems.into_iter().map(|p| format!("{}: {}", p.field, p.message)).collect()
    }

    #[test]
    fn a_file_stands_for_the_work_and_for_nothing_else() {
        let e = parse(json!({"inputsRef": "in/a.json", "resultRef": "out/a.json", "outputSchema": {}})).unwrap();
        assert_eq!(e.spec.work, Work::Inputs { inputs: Place::new(None, "in/a.json") });
        assert_eq!(e.spec.result_ref, Some(Place::new(None, "out/a.json")));
        assert_eq!(e.spec.needs_volume(), Some("inputsRef"));
        for (envelope, want) in [
            (json!({"inputsRef": "a", "prompt": "b"}), "inputsRef: must not be given beside `prompt` or `item`"),
            (json!({"inputsRef": "a", "kind": "converge"}), "kind: must stand in the file that `inputsRef` names"),
            (json!({"inputsRef": " "}), "inputsRef: must not be blank"),
            (json!({"inputsRef": 7}), "inputsRef: must be a string, got 7"),
            (json!({"prompt": "x", "resultRef": "x".repeat(1_025)}), "resultRef: must be at most 1024 bytes, got 1025"),
        ] {
            let found = problems(parse(envelope.clone()));
            assert!(found[0].starts_with(want), "{envelope}: {found:?}");
        }
    }

    #[test]
    fn paths_become_places_of_the_tenant() {
        let place = |text: &str| Ok(Place::new(Some("acme"), relative(text, Path::new("/mnt"))?));
        let read = |envelope: Value| {
            let mut spec = parse(envelope).unwrap().spec;
            spec.locate(place).map(|()| spec)
        };
        let spec = read(json!({"inputsRef": "/mnt/in/a", "resultRef": "./out/a"})).unwrap();
        assert_eq!(spec.work, Work::Inputs { inputs: Place::new(Some("acme"), "in/a") });
        assert_eq!(spec.result_ref, Some(Place::new(Some("acme"), "out/a")));
        for (envelope, want) in [
            (json!({"inputsRef": "../a", "resultRef": "/etc/b"}), "inputsRef: must name a file below the root"),
            (json!({"inputsRef": "a", "resultRef": "./a"}), "resultRef: must not be the file that `inputsRef` names"),
            (
                json!({"prompt": "x", "resultRef": "y".repeat(201)}),
                "resultRef: must end with a name of at most 200 bytes",
            ),
        ] {
            let found = problems(read(envelope.clone()));
            assert!(found[0].starts_with(want), "{envelope}: {found:?}");
        }
        assert_eq!(problems(read(json!({"inputsRef": "../a", "resultRef": "/etc/b"}))).len(), 2, "all of it is said");
    }

    #[test]
    fn a_file_of_inputs_is_read_like_an_envelope() {
        let read = |text: &str| read_inputs(text.as_bytes(), false);
        assert_eq!(read("{\"prompt\": \"hi\"}"), Ok(Work::Prompt { prompt: "hi".into() }));
        assert_eq!(read("\u{feff}{\"prompt\": \"hi\"}"), Ok(Work::Prompt { prompt: "hi".into() }), "a byte order mark");
        let item = r#"{"kind": "converge", "item": {"item_id": "i", "file": "a", "pattern": "b"}}"#;
        assert!(matches!(read(item), Ok(Work::Review { .. })));
        for (text, want) in [
            ("", "file: must be JSON: EOF"),
            ("{\"prompt\": \"hi\"", "file: must be JSON: EOF"),
            ("[]", "body: must be a JSON object"),
            ("{}", "prompt: or `item` is required: a file of inputs says exactly one kind of work"),
            (r#"{"prompt": "x", "model": "m"}"#, "model: is not a known field"),
            (r#"{"prompt": "x", "inputsRef": "m"}"#, "inputsRef: is not a known field"),
            (r#"{"prompt": " "}"#, "prompt: must not be blank"),
            (r#"{"item": {"item_id": "i", "file": "a"}}"#, "item.pattern: is required"),
            (r#"{"kind": "converge"}"#, "item: is required with `kind` \"converge\""),
            (r#"{"prompt": "x", "kind": "solve"}"#, "kind: must be \"converge\" (or absent)"),
        ] {
            let found = problems(read(text));
            assert!(found[0].starts_with(want), "{text}: {found:?}");
        }
        assert_eq!(
            problems(read_inputs(b"{\"prompt\": \"\xff\"}", false)),
            ["file: must be UTF-8, and is not from byte 12 on"]
        );
        assert!(
            problems(read_inputs(item.as_bytes(), true))[0]
                .starts_with("item: must not be given beside `outputSchema`")
        );
    }
}
