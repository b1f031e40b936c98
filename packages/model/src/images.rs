//! Which pictures of a conversation are sent.
//!
//! Owns: the bounds that every provider holds a request to, and the notes that stand for what is not sent. Must not
//! know: any wire format.
//!
//! What is left out depends on the conversation alone, and changes rarely as it grows: when it has become too much, the
//! older ones go until half is left, so that the cached beginning of requests stays the same for a good while.

use std::borrow::Cow;

use torpor_core::message::IMAGE_TOKENS;
use torpor_core::model::Message;

/// Most bytes of base64 in one request; the smallest bound of a provider on a whole request is 32 MB.
const MAX_BYTES: usize = 20 * 1024 * 1024;
/// Most pictures in one request. Beyond it some providers take only much smaller ones.
const MAX_COUNT: usize = 20;

/// In the place of older ones.
const NO_LONGER: &str = "[This image is no longer shown, since there are newer ones. To see it, read the file again.]";
/// In the place of all.
const NOT_SEEN: &str = "[The image is not shown: this model is not known to take images.]";

/// Words of errors that are about pictures.
const WORDS: &[&str] = &["image", "multimodal", "multi-modal"];

/// The conversation as it is to be sent.
pub(crate) fn sent(messages: &[Message], takes_images: bool) -> Cow<'_, [Message]> {
    let sizes: Vec<usize> = messages.iter().flat_map(Message::images).collect();
    let (first, note) = if takes_images { (first(&sizes), NO_LONGER) } else { (sizes.len(), NOT_SEEN) };
    if first == 0 {
        return messages.into();
    }
    let mut before = first;
    let mut keep = || match before.checked_sub(1) {
        Some(less) => {
            before = less;
            false
        }
        None => true,
    };
    messages.iter().map(|m| m.replace_images(note, &mut keep)).collect()
}

/// The first picture that is sent.
fn first(sizes: &[usize]) -> usize {
    let (mut first, mut bytes) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        bytes += size;
        if bytes > MAX_BYTES || i + 1 - first > MAX_COUNT {
            while first < i && (bytes > MAX_BYTES / 2 || i + 1 - first > MAX_COUNT / 2) {
                bytes -= sizes[first];
                first += 1;
            }
        }
    }
    first
}

/// Estimated tokens of a request of so many bytes with these messages, of which pictures count a fixed number.
pub(crate) fn estimate(bytes: usize, messages: &[Message], bytes_per_token: u64) -> u64 {
    let (mut count, mut pictured) = (0u64, 0);
    for size in messages.iter().flat_map(Message::images) {
        (count, pictured) = (count + 1, pictured + size);
    }
    let rest = bytes.saturating_sub(pictured) as u64;
    (rest / bytes_per_token).saturating_add(count.saturating_mul(IMAGE_TOKENS))
}

/// Whether an error speaks of pictures, so that the same request without them may be taken. There is no code for it on
/// any wire, and some servers say so with the status of a failure of their own.
pub(crate) fn are_refused(status: u16, message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    matches!(status, 400 | 404 | 415 | 422 | 500 | 501) && WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use torpor_core::message::{Content, ToolResult};

    use super::*;

    fn seen(bytes: usize) -> Message {
        let image = Content::Image { media_type: "image/png".into(), data: "A".repeat(bytes) };
        let content = vec![Content::Text { text: "[p.png]".into() }, image];
        Message::Tools(vec![("t".into(), ToolResult { content, is_error: false })])
    }

    fn lengths(messages: &[Message]) -> Vec<usize> {
        messages.iter().flat_map(Message::images).collect()
    }

    #[test]
    fn a_model_that_takes_none_is_told_instead() {
        let conversation = [Message::User("look".into()), seen(8)];
        assert!(matches!(sent(&conversation, true), Cow::Borrowed(_)));
        let told = sent(&conversation, false);
        assert_eq!(lengths(&told), Vec::<usize>::new());
        let Message::Tools(results) = &told[1] else { panic!("results stay results") };
        assert_eq!(results[0].1.as_text(), format!("[p.png]\n{NOT_SEEN}"));
        assert!(matches!(sent(&conversation[..1], false), Cow::Borrowed(_)));
    }

    #[test]
    fn the_newest_are_sent_and_what_goes_goes_in_steps() {
        let all: Vec<Message> = (1..=31).map(seen).collect();
        for (count, expected) in [(20, 1..=20), (21, 12..=21), (30, 12..=30), (31, 12..=31)] {
            assert_eq!(lengths(&sent(&all[..count], true)), expected.collect::<Vec<_>>(), "{count}");
        }
    }

    proptest! {
        #[test]
        fn a_request_stays_within_the_bounds_and_has_the_newest(
            sizes in prop::collection::vec(1..=5 * 1024 * 1024usize, 0..60),
        ) {
            let first = first(&sizes);
            let shown = &sizes[first..];
            prop_assert!(shown.len() <= MAX_COUNT && shown.iter().sum::<usize>() <= MAX_BYTES);
            prop_assert!(sizes.is_empty() || !shown.is_empty());
        }
    }

    #[test]
    fn refusals_of_pictures_are_told_by_their_words() {
        for (status, message, expected) in [
            (400, "unknown variant `image_url`, expected `text`", true),
            (400, "At most 0 image(s) may be provided in one prompt", true),
            (400, "tiny is not a multimodal model", true),
            (
                500,
                "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
                true,
            ),
            (404, "No endpoints found that support image input", true),
            (400, "messages.2.content.0.tool_result.content.1.image.source.base64: Could not process image", true),
            (400, "max_tokens is too large", false),
            (429, "too many images a minute", false),
            (413, "the image is too large", false),
        ] {
            assert_eq!(are_refused(status, message), expected, "{message}");
        }
    }

    #[test]
    fn a_picture_counts_what_models_count_and_not_its_bytes() {
        assert_eq!(estimate(4_000_400, &[seen(4_000_000)], 4), 100 + IMAGE_TOKENS);
    }
}
