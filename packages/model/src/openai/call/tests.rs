use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Plays pieces; answers the calls as `id name arguments`.
fn play(pieces: &[Value]) -> Result<Vec<String>, Error> {
    let mut calls = Calls::default();
    for piece in pieces {
        calls.add(piece.as_object().unwrap(), None)?;
    }
    let (blocks, _) = calls.close("a", StopReason::ToolUse)?;
    let shown = |b: &Block| match b {
        Block::ToolUse { id, name, input } => format!("{id} {name} {input}"),
        other => panic!("{other:?}"),
    };
    Ok(blocks.iter().map(shown).collect())
}

fn piece(index: impl Into<Value>, id: impl Into<Value>, name: impl Into<Value>, arguments: impl Into<Value>) -> Value {
    json!({"index": index.into(), "id": id.into(), "type": "function",
           "function": {"name": name.into(), "arguments": arguments.into()}})
}

const NO: Value = Value::Null;

#[test]
fn pieces_find_their_call() {
    let (ls, pwd) = (r#"{"c":"ls"}"#, r#"{"c":"pwd"}"#);
    let (a, b) = (format!("x bash {ls}"), format!("y bash {pwd}"));
    let cases = [
        (
            "as the inventor does",
            vec![
                piece(0, "x", "bash", ""),
                piece(0, NO, NO, r#"{"c":"#),
                piece(0, NO, NO, r#""ls"}"#),
                piece(1, "y", "bash", ""),
                piece(1, NO, NO, pwd),
            ],
        ),
        (
            "interleaved",
            vec![
                piece(0, "x", "bash", ""),
                piece(1, "y", "bash", ""),
                piece(0, NO, NO, r#"{"c":"#),
                piece(1, NO, NO, pwd),
                piece(0, NO, NO, r#""ls"}"#),
            ],
        ),
        ("each whole, without indices", vec![piece(NO, "x", "bash", ls), piece(NO, "y", "bash", pwd)]),
        ("each whole, all with the same index", vec![piece(0, "x", "bash", ls), piece(0, "y", "bash", pwd)]),
        (
            "ids and names repeated",
            vec![piece(0, "x", "bash", r#"{"c":"#), piece(0, "x", "bash", r#""ls"}"#), piece(1, "y", "bash", pwd)],
        ),
        (
            "ids and names empty instead of absent",
            vec![piece(0, "x", "bash", ""), piece(0, "", "", ls), piece(1, "y", "bash", ""), piece(1, "", "", pwd)],
        ),
        (
            "without indices, in pieces",
            vec![
                piece(NO, "x", "bash", r#"{"c":"#),
                piece(NO, NO, NO, r#""ls"}"#),
                piece(NO, "y", "bash", r#"{"c":"#),
                piece(NO, "y", NO, r#""pwd"}"#),
            ],
        ),
        (
            "id and name in pieces of their own",
            vec![
                piece(0, "x", NO, NO),
                piece(0, NO, "ba", NO),
                piece(0, NO, "sh", NO),
                piece(0, NO, NO, ls),
                piece(1, "y", NO, NO),
                piece(1, NO, "bash", NO),
                piece(1, NO, NO, pwd),
            ],
        ),
        (
            "arguments that are no text",
            vec![piece(0, "x", "bash", json!({"c": "ls"})), piece(1, "y", "bash", json!({"c": "pwd"}))],
        ),
        ("indices that begin anywhere", vec![piece(7, "x", "bash", ls), piece(3, "y", "bash", pwd)]),
    ];
    for (what, pieces) in cases {
        assert_eq!(play(&pieces).unwrap(), [a.clone(), b.clone()], "{what}");
    }
    let long_id = [piece(0, "x", NO, NO), piece(0, "yz", NO, NO), piece(0, NO, "bash", ls)];
    assert_eq!(play(&long_id).unwrap(), [format!("xyz bash {ls}")]);
}

#[test]
fn a_call_without_an_id_gets_one() {
    let ls = r#"{"c":"ls"}"#;
    let expected = [format!("call_a_0 bash {ls}"), format!("call_a_1 read {ls}")];
    for index in [NO, json!(0)] {
        let pieces = [piece(index.clone(), "", "bash", ls), piece(index, "", "read", ls)];
        assert_eq!(play(&pieces).unwrap(), expected);
    }
    assert_eq!(play(&[piece(0, NO, "bash", "")]).unwrap(), ["call_a_0 bash {}"]);
}

#[test]
fn what_cannot_be_carried_out_is_an_error() {
    let cases = [
        vec![piece(0, "x", "bash", r#"{"c":"#)],
        vec![piece(0, "x", "bash", "[]")],
        vec![piece(0, "x", "bash", "7")],
        vec![piece(0, "x", "", "{}")],
        // The same call once more, whole: rather an error than the command twice.
        vec![piece(0, "x", "bash", r#"{"c":1}"#), piece(0, "x", "bash", r#"{"c":1}"#)],
        vec![json!({"index": 0, "id": "x"})],
        (0..=MAX_CALLS).map(|n| piece(n as u64, n.to_string(), "bash", "{}")).collect(),
    ];
    for pieces in cases {
        let shown = format!("{:?}", pieces.first());
        assert_eq!(play(&pieces).unwrap_err().retry, torpor_core::model::Retry::Backoff, "{shown}");
    }
}

#[test]
fn what_the_provider_has_beside_a_call_is_kept() {
    let mut calls = Calls::default();
    let mut first = piece(0, "x", "bash", "{}");
    first["extra_content"] = json!({"maker": {"thought_signature": "c2ln"}});
    for p in [first, piece(1, "y", "bash", "{}")] {
        calls.add(p.as_object().unwrap(), None).unwrap();
    }
    let (blocks, extras) = calls.close("a", StopReason::ToolUse).unwrap();
    assert_eq!(blocks.len(), 2);
    assert_eq!(extras, [json!({"extra_content": {"maker": {"thought_signature": "c2ln"}}, "id": "x"})]);
}

#[test]
fn fields_grow() {
    let mut fields = Map::new();
    let pieces = [
        json!({"text": "a", "id": "i", "n": 1, "list": [{"index": 0, "text": "x", "signature": null}], "o": {"t": "p"}}),
        json!({"text": "b", "id": "i", "n": 2, "list": [{"index": 1, "text": "y"}, {"index": 0, "text": "z"}]}),
        json!({"text": null, "list": [{"index": 0, "signature": "s"}, 7], "o": {"t": "q"}}),
    ];
    for p in pieces {
        let Value::Object(p) = p else { panic!() };
        p.into_iter().for_each(|(k, v)| grow(&mut fields, &k, v));
    }
    let expected = json!({"text": "ab", "id": "i", "n": 2, "o": {"t": "pq"},
        "list": [{"index": 0, "text": "xz", "signature": "s"}, {"index": 1, "text": "y"}, 7]});
    assert_eq!(Value::Object(fields), expected);
}

proptest! {
    /// However the arguments are cut, the call is the same; and no cut-off part of them is ever one.
    #[test]
    fn cuts_do_not_matter(text in "[a-zé\"\\\\{}]{0,12}", cut in 0usize..40, index in any::<bool>()) {
        let arguments = json!({"c": text}).to_string();
        let at = (0..=cut.min(arguments.len())).rev().find(|n| arguments.is_char_boundary(*n)).unwrap();
        let (head, tail) = arguments.split_at(at);
        let index = if index { json!(0) } else { NO };
        let pieces = [piece(index.clone(), "x", "bash", ""), piece(index.clone(), NO, NO, head), piece(index, NO, NO, tail)];
        prop_assert_eq!(play(&pieces).unwrap(), [format!("x bash {arguments}")]);
        if !head.is_empty() && !tail.is_empty() {
            prop_assert!(play(&pieces[..2]).is_err());
        }
    }

    #[test]
    fn nothing_makes_it_panic(pieces in proptest::collection::vec(any_piece(), 0..8)) {
        for line in play(&pieces).unwrap_or_default() {
            prop_assert!(line.ends_with('}'), "{}", line);
        }
    }
}

fn any_piece() -> impl Strategy<Value = Value> {
    let index = prop_oneof![Just(NO), (0..2u64).prop_map(Value::from), Just(json!(-1))];
    let text = prop_oneof![Just(NO), Just(json!("")), Just(json!("x")), Just(json!("y")), Just(json!({"a": 1}))];
    let arguments = prop_oneof![Just(json!("{")), Just(json!("}")), Just(json!("{}")), Just(NO), Just(json!([]))];
    (index, text.clone(), text, arguments).prop_map(|(i, id, name, arguments)| piece(i, id, name, arguments))
}
