//! JSON, as far as the tools need it: what registries and runtimes wrote is read, and what the tools say is written.

use std::fmt::{self, Write};

use crate::map::cut;
use crate::map::idmap::{Extent, IdMap};
use crate::map::ranges::Ranges;

/// Deeper nesting than this is nobody's configuration.
const MAX_DEPTH: usize = 64;

/// A JSON value. Numbers keep their text: ids and sizes are integers, and nothing else is used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// null, true and false.
    Word(String),
    Number(String),
    Text(String),
    List(Vec<Value>),
    /// Of two equal keys the last counts.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads one value, with nothing after it.
    pub fn parse(text: &str) -> Result<Value, String> {
        let mut reader = Reader { rest: text, depth: 0 };
        let value = reader.value().and_then(|value| {
            reader.skip_space();
            if reader.rest.is_empty() { Ok(value) } else { Err("something follows the value") }
        });
        value.map_err(|why| {
            format!("not JSON at byte {}, {:?}: {why}", text.len() - reader.rest.len(), cut(reader.rest))
        })
    }

    pub fn object(members: Vec<(&str, Value)>) -> Value {
        Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// A member of a member, and so on.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is an integer from 0 to 2^64-1.
    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The elements of an array; none of anything else.
    pub fn list(&self) -> &[Value] {
        match self {
            Value::List(elements) => elements,
            _ => &[],
        }
    }
}

/// `object! { "id": id, "names": names }`: an object of whatever a `Value` can be made from.
macro_rules! object {
    ($($key:literal: $value:expr),* $(,)?) => {
        $crate::cmd::json::Value::object(vec![$(($key, $crate::cmd::json::Value::from($value))),*])
    };
}
pub(crate) use object;

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}

/// From numbers, true and false: as Rust writes them.
macro_rules! from_plain {
    ($($plain:ty => $kind:ident),*) => {
        $(impl From<$plain> for Value {
            fn from(value: $plain) -> Value {
                Value::$kind(value.to_string())
            }
        })*
    };
}
from_plain!(u32 => Number, u64 => Number, usize => Number, bool => Word);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or_else(|| Value::Word("null".into()), T::into)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Value {
        Value::List(items.into_iter().map(T::into).collect())
    }
}

/// As `linux.uidMappings` of an OCI runtime configuration.
impl From<&IdMap> for Value {
    fn from(map: &IdMap) -> Value {
        let line = |e: &Extent| object! { "containerID": e.inside, "hostID": e.outside, "size": e.count };
        map.extents().iter().map(line).collect()
    }
}

impl From<&Ranges> for Value {
    fn from(ranges: &Ranges) -> Value {
        ranges.iter().map(|r| object! { "first": *r.start(), "last": *r.end() }).collect()
    }
}

/// Without blanks or ends of lines.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Word(text) | Value::Number(text) => f.write_str(text),
            Value::Text(text) => quote(text, f),
            Value::List(elements) => {
                for (n, value) in elements.iter().enumerate() {
                    f.write_char(if n == 0 { '[' } else { ',' })?;
                    value.fmt(f)?;
                }
                f.write_str(if elements.is_empty() { "[]" } else { "]" })
            }
            Value::Object(members) => {
                for (n, (key, value)) in members.iter().enumerate() {
                    f.write_char(if n == 0 { '{' } else { ',' })?;
                    quote(key, f)?;
                    f.write_char(':')?;
                    value.fmt(f)?;
                }
                f.write_str(if members.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

fn quote(text: &str, f: &mut fmt::Formatter) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", c as u32)?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Passes over `c` if it is next.
    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self) -> Result<Value, &'static str> {
        self.skip_space();
        match self.rest.as_bytes().first() {
            Some(b'{') => self
                .nested('}', |r| {
                    let key = r.string()?;
                    if !r.take(':') {
                        return Err("':' is missing");
                    }
                    Ok((key, r.value()?))
                })
                .map(Value::Object),
            Some(b'[') => self.nested(']', Reader::value).map(Value::List),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.word("+-.eE0123456789"))),
            _ => match self.word("abcdefghijklmnopqrstuvwxyz") {
                word if matches!(&*word, "null" | "true" | "false") => Ok(Value::Word(word)),
                _ => Err("a value is missing"),
            },
        }
    }

    fn word(&mut self, of: &str) -> String {
        let end = self.rest.find(|c| !of.contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// The elements between brackets, of which the first is next.
    fn nested<T>(
        &mut self,
        end: char,
        mut element: impl FnMut(&mut Self) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, &'static str> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply");
        }
        self.rest = &self.rest[1..];
        let mut all = Vec::new();
        if !self.take(end) {
            loop {
                all.push(element(self)?);
                if self.take(end) {
                    break;
                }
                if !self.take(',') {
                    return Err("',' is missing");
                }
            }
        }
        self.depth -= 1;
        Ok(all)
    }

    fn string(&mut self) -> Result<String, &'static str> {
        if !self.take('"') {
            return Err("a string is missing");
        }
        let mut out = String::new();
        let mut rest = self.rest.chars();
        loop {
            match rest.next().ok_or("the string does not end")? {
                '"' => break,
                '\\' => match rest.next().ok_or("the string does not end")? {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    c @ ('"' | '\\' | '/') => out.push(c),
                    'u' => {
                        let mut code = unit(&mut rest)?;
                        // Two halves of a character beyond 16 bits; a half alone becomes the replacement character.
                        if (0xd800..0xdc00).contains(&code) && rest.as_str().starts_with("\\u") {
                            rest = rest.as_str()[2..].chars();
                            code = (0x10000 + ((code - 0xd800) << 10)) | (unit(&mut rest)? & 0x3ff);
                        }
                        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    _ => return Err("an unknown escape"),
                },
                c if c < ' ' => return Err("a control character in a string"),
                c => out.push(c),
            }
        }
        self.rest = rest.as_str();
        Ok(out)
    }
}

/// The four hex digits after `\u`.
fn unit(rest: &mut std::str::Chars) -> Result<u32, &'static str> {
    let text = rest.as_str();
    let digits =
        text.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or("\\u needs four hex digits")?;
    *rest = text[4..].chars();
    u32::from_str_radix(digits, 16).map_err(|_| "\\u needs four hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values() {
        let v = Value::parse(
            " {\"a\": [1, -2.5e3, true, null, {}], \"b\": {\"c\": \"x\\n\\u00e9\\ud83d\\ude00\\/\"}, \"a2\":[]} ",
        )
        .unwrap();
        assert_eq!(v.get("a").unwrap().list().len(), 5);
        assert_eq!(v.get("a").unwrap().list()[0].number(), Some(1));
        assert_eq!(v.get("a").unwrap().list()[1].number(), None);
        assert_eq!(v.at(&["b", "c"]).unwrap().text(), Some("x\né😀/"));
        assert_eq!(v.at(&["b", "d"]), None);
        assert_eq!(Value::parse("{\"a\":1,\"a\":2}").unwrap().get("a").unwrap().number(), Some(2));
    }

    #[test]
    fn refuses_what_is_not_json() {
        for (text, why) in [
            ("", "a value is missing"),
            ("{\"a\" 1}", "':' is missing"),
            ("[1 2]", "',' is missing"),
            ("[1,]", "a value is missing"),
            ("{1:2}", "a string is missing"),
            ("\"a", "the string does not end"),
            ("\"\\", "the string does not end"),
            ("\"\\x\"", "an unknown escape"),
            ("\"\\u12\"", "\\u needs four hex digits"),
            ("\"\\u+123\"", "\\u needs four hex digits"),
            ("\"a\nb\"", "a control character in a string"),
            ("nul", "a value is missing"),
            ("1 1", "something follows the value"),
        ] {
            let error = Value::parse(text).unwrap_err();
            assert!(error.ends_with(why), "{text}: {error}");
        }
        assert!(Value::parse(&"[".repeat(1_000_000)).unwrap_err().ends_with("nested too deeply"));
        let error = Value::parse(&format!("[{}", "é".repeat(1000))).unwrap_err();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn quotes_and_reads_back() {
        for text in ["", "a\"b\\c\n\t\r\u{1}\u{7f}é😀/"] {
            assert_eq!(Value::parse(&Value::from(text).to_string()).unwrap(), Value::from(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:\\\\u0-9a-ftrue \\n]{0,60}") {
            let _ = Value::parse(&text);
        }

        #[test]
        fn any_string_comes_back(text: String) {
            proptest::prop_assert_eq!(Value::parse(&Value::from(&text).to_string()).unwrap(), Value::Text(text));
        }
    }
}
