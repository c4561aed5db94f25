//! Writes JSON objects in printable ASCII.
//!
//! By hand, because every check writes one: with a serializer's machinery it cost twice as much.

/// An object being written.
pub(super) struct Object<'l> {
    line: &'l mut Vec<u8>,
    empty: bool,
}

impl<'l> Object<'l> {
    /// Starts an object at the end of `line`.
    pub(super) fn start(line: &'l mut Vec<u8>) -> Self {
        line.push(b'{');
        Self { line, empty: true }
    }

    /// Ends it.
    pub(super) fn end(self) {
        self.line.push(b'}');
    }

    /// Starts an object in it.
    pub(super) fn object(&mut self, name: &'static str) -> Object<'_> {
        self.name(name);
        Object::start(self.line)
    }

    /// Writes a text, if there is one.
    pub(super) fn text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            string(self.line, text);
        }
    }

    /// Writes a text of ours that needs no escape.
    pub(super) fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.name(name);
        self.line.push(b'"');
        self.line.extend_from_slice(text);
        self.line.push(b'"');
    }

    /// Writes an array of texts, if there are any.
    pub(super) fn texts<'t>(&mut self, name: &'static str, texts: impl Iterator<Item = &'t str>) {
        let mut texts = texts.peekable();
        if texts.peek().is_none() {
            return;
        }
        self.name(name);
        let mut before = b'[';
        for text in texts {
            self.line.push(before);
            string(self.line, text);
            before = b',';
        }
        self.line.push(b']');
    }

    /// Writes an array of objects, each as `write` fills it, if there are any.
    pub(super) fn objects<T>(
        &mut self,
        name: &'static str,
        items: &[T],
        write: impl Fn(&T, &mut Object<'_>),
    ) {
        if items.is_empty() {
            return;
        }
        self.name(name);
        let mut before = b'[';
        for item in items {
            self.line.push(before);
            let mut object = Object::start(self.line);
            write(item, &mut object);
            object.end();
            before = b',';
        }
        self.line.push(b']');
    }

    /// Writes a number.
    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        // The most digits of a `u64`.
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut first = digits.len();
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' | u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            first = place;
            if rest == 0 {
                break;
            }
        }
        self.line.extend_from_slice(digits.get(first..).unwrap_or_default());
    }

    /// Writes `true`.
    pub(super) fn yes(&mut self, name: &'static str) {
        self.name(name);
        self.line.extend_from_slice(b"true");
    }

    fn name(&mut self, name: &'static str) {
        if !std::mem::take(&mut self.empty) {
            self.line.push(b',');
        }
        self.line.push(b'"');
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
    }
}

fn string(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    // Without an early end, so that many bytes are looked at at once.
    if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        line.extend_from_slice(text.as_bytes());
    } else {
        text.encode_utf16().for_each(|unit| escaped(line, unit));
    }
    line.push(b'"');
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~')
}

fn escaped(line: &mut Vec<u8>, unit: u16) {
    match u8::try_from(unit) {
        Ok(byte) if is_plain(byte) => line.push(byte),
        Ok(byte @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', byte]),
        Ok(_) | Err(_) => {
            line.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                let digit = unit >> shift & 0xf;
                let digit = u8::try_from(digit).unwrap_or_default();
                line.push(if digit < 10 {
                    b'0' | digit
                } else {
                    b'a'.wrapping_add(digit.wrapping_sub(10))
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_reads_back_and_is_printable(text in "\\PC*|[\\x00-\\x7f]*|.*", number: u64) {
            let mut line = Vec::new();
            let mut object = Object::start(&mut line);
            object.text("text", Some(&text));
            object.text("absent", None);
            object.number("number", number);
            object.texts("texts", [&*text, "b"].into_iter());
            object.texts("none", std::iter::empty());
            object.objects("objects", &[&*text, "b"], |item, object| object.text("a", Some(item)));
            object.objects("no objects", &[""; 0], |_, _| ());
            object.object("empty").end();
            object.end();
            assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
            let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let wanted = serde_json::json!({
                "text": text, "number": number, "texts": [text, "b"],
                "objects": [{"a": text}, {"a": "b"}], "empty": {},
            });
            assert_eq!(read, wanted);
        }
    }
}
