//! The ids that manifests of pods and workloads name: `runAsUser`, `runAsGroup`, `fsGroup` and `supplementalGroups`,
//! wherever they stand, in YAML or JSON.
//!
//! A scanner, not a parser: it knows which text is a key and which a value (comments, quotes, block scalars, flow
//! collections, several documents, anchors of numbers), and what belongs to the keys above. Maps below them, as in a
//! schema or a policy, are no ids. Not read: `? key` on a line of its own, and escapes in keys.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::map::ranges::{MAX_LISTED, Ranges};
use crate::map::{MAX_ID, cut};

/// More is no manifest.
const MAX_SIZE: u64 = 16 << 20;
/// Brackets in brackets.
const MAX_DEPTH: usize = 64;
/// Numbers with a name for later use, `&uid 10001`.
const MAX_ANCHORS: usize = 1024;

/// The ids that a manifest names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// Of `runAsUser`.
    pub uids: Ranges,
    /// Of the others.
    pub gids: Ranges,
}

/// Reads a file; `-` is stdin. An error is one line without the path.
pub fn read(path: &Path) -> Result<Identities, String> {
    let path = if path.as_os_str() == "-" { Path::new("/dev/stdin") } else { path };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("over {MAX_SIZE} bytes"));
    }
    scan(&String::from_utf8(bytes).map_err(|_| "not UTF-8")?)
}

/// Finds the ids in a text. An error names the line.
pub fn scan(text: &str) -> Result<Identities, String> {
    let text = text.trim_start_matches('\u{feff}');
    if let Some(at) = text.find('\0') {
        return Err(format!("line {}: a NUL byte", text[..at].matches('\n').count() + 1));
    }
    let mut scanner = Scanner { text, at: 0, line: 1, ids: [Vec::new(), Vec::new()], anchors: Vec::new() };
    scanner.lines()?;
    let [uids, gids] = scanner.ids.map(|ids| Ranges::new(ids.into_iter().map(|id| id..=id).collect()));
    Ok(Identities { uids, gids })
}

/// A key whose value is read.
type Field = &'static str;

const USER: Field = "runAsUser";
const FIELDS: [Field; 4] = [USER, "runAsGroup", "fsGroup", "supplementalGroups"];

fn field(key: &str) -> Option<Field> {
    FIELDS.into_iter().find(|field| *field == key)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    /// uids, gids.
    ids: [Vec<u32>; 2],
    anchors: Vec<(&'a str, u32)>,
}

/// What a line leaves open for the next ones. Columns count from 0; what is at the top is below -1.
#[derive(Default)]
struct Open {
    /// A plain text that goes on below this column.
    plain: Option<isize>,
    /// A field at this column whose value is still to come.
    field: Option<(Field, isize)>,
}

impl<'a> Scanner<'a> {
    /// Line by line; a bracket, quote or block of text takes all of its lines at once.
    fn lines(&mut self) -> Result<(), String> {
        let mut open = Open::default();
        while self.at < self.text.len() {
            let mut column = self.blanks();
            match self.peek() {
                b'\n' => {
                    self.skip_line();
                    continue;
                }
                b'#' => {
                    open.plain = None;
                    self.skip_line();
                    continue;
                }
                _ => {}
            }
            let mark = self.rest().get(..3).unwrap_or_default();
            if column == 0 && (mark.starts_with('%') || matches!(mark, "---" | "...") && self.is_blank(3)) {
                open = Open::default();
                if mark != "---" {
                    self.skip_line();
                    continue;
                }
                self.at += 3;
                column = 3 + self.blanks();
                self.node(column, -1, None, false, &mut open)?;
                continue;
            }
            if open.plain.is_some_and(|above| column > above) {
                self.skip_line();
                continue;
            }
            open.plain = None;
            let is_item = |scanner: &Self| matches!(scanner.peek(), b'-' | b'?') && scanner.is_blank(1);
            if open.field.is_some_and(|(_, of)| column < of || column == of && !is_item(self)) {
                open.field = None;
            }
            let mut above = -1;
            while is_item(self) {
                above = column;
                self.at += 1;
                column += 1 + self.blanks();
            }
            let field = open.field.map(|(field, _)| field);
            // A key without an item's dash is below the key of its indentation, which need not be known here.
            let above = if above < 0 { open.field.map_or(column - 1, |(_, of)| of) } else { above };
            self.node(column, above, field, true, &mut open)?;
        }
        Ok(())
    }

    /// A key and what follows it on the line, or a value, with the rest of its last line. `above` is the column that
    /// a text of several lines has to be to the right of.
    fn node(
        &mut self,
        column: isize,
        above: isize,
        of: Option<Field>,
        may_be_key: bool,
        open: &mut Open,
    ) -> Result<(), String> {
        let anchor = self.properties();
        let line = self.line;
        let key = match self.peek() {
            b'\n' | b'#' => {
                self.skip_line();
                return Ok(());
            }
            b'|' | b'>' => {
                if let Some(field) = of {
                    return Err(format!("line {line}: {field} is text, not a number"));
                }
                self.skip_line();
                self.skip_text(above);
                return Ok(());
            }
            b'{' | b'[' => {
                self.flow(of, 0)?;
                self.ends_key(may_be_key).then_some("")
            }
            b'"' | b'\'' => {
                let text = self.quoted()?;
                let key = self.ends_key(may_be_key).then_some(text);
                if key.is_none() {
                    self.string(of, text, line)?;
                }
                key
            }
            _ => {
                let text = self.plain(|scanner, _| scanner.peek() == b':' && scanner.is_blank(1) && may_be_key);
                let key = self.ends_key(may_be_key).then_some(text);
                if key.is_none() {
                    self.value(of, text, anchor, line)?;
                    open.plain = Some(above);
                }
                key
            }
        };
        let Some(key) = key else { return self.end_line() };
        self.at += 1;
        self.blanks();
        let field = field(key);
        open.field = field.map(|field| (field, column));
        // A value on the key's line cannot be a key again, so this goes no deeper.
        self.node(column, column, field, false, open)
    }

    /// `[…]` or `{…}`.
    fn flow(&mut self, of: Option<Field>, depth: usize) -> Result<(), String> {
        let start = self.line;
        if self.rest().starts_with("{{") || self.rest().starts_with("{%") {
            return Err(self.template());
        }
        if depth > MAX_DEPTH {
            return Err(format!("line {start}: brackets in brackets, over {MAX_DEPTH} deep"));
        }
        let list = self.peek() == b'[';
        let close = if list { b']' } else { b'}' };
        self.at += 1;
        // Whose value is next; in a map, the word before ':' is none.
        let (mut of_next, mut is_value) = (of.filter(|_| list), list);
        loop {
            self.spaces_and_comments();
            let anchor = self.properties();
            self.spaces_and_comments();
            let line = self.line;
            match self.peek() {
                0 => return Err(format!("line {start}: the bracket does not close")),
                c if c == close => {
                    self.at += 1;
                    return Ok(());
                }
                c @ (b']' | b'}') => return Err(format!("line {line}: {:?} closes nothing", char::from(c))),
                b',' => {
                    self.at += 1;
                    (of_next, is_value) = (of.filter(|_| list), list);
                }
                b':' => {
                    self.at += 1;
                    is_value = true;
                }
                b'{' | b'[' => self.flow(of_next.filter(|_| is_value), depth + 1)?,
                c => {
                    let quoted = matches!(c, b'"' | b'\'');
                    let text = if quoted { self.quoted()? } else { self.flow_plain() };
                    self.spaces_and_comments();
                    if self.peek() == b':' {
                        (of_next, is_value) = (field(text), true);
                        self.at += 1;
                    } else if is_value && quoted {
                        self.string(of_next, text, line)?;
                    } else if is_value {
                        self.value(of_next, text, anchor, line)?;
                    }
                }
            }
        }
    }

    /// A quoted text, on one line or more.
    fn quoted(&mut self) -> Result<&'a str, String> {
        let (quote, start) = (self.peek(), self.line);
        let from = self.at + 1;
        loop {
            self.at += 1;
            match self.peek() {
                0 => return Err(format!("line {start}: the quote does not end")),
                b'\n' => self.line += 1,
                b'\\' if quote == b'"' => {
                    self.at += 1;
                    self.line += usize::from(self.peek() == b'\n');
                }
                b'\'' if quote == b'\'' && self.peek_at(1) == b'\'' => self.at += 1,
                c if c == quote => break,
                _ => {}
            }
        }
        self.at += 1;
        Ok(&self.text[from..self.at - 1])
    }

    /// Text without quotes, up to a comment, the line's end, or where `ends` says.
    fn plain(&mut self, ends: impl Fn(&Self, u8) -> bool) -> &'a str {
        let from = self.at;
        let mut before = b'x';
        while !matches!(self.peek(), 0 | b'\n') && !ends(self, before) {
            if self.peek() == b'#' && is_space(before) {
                break;
            }
            before = self.peek();
            self.at += 1;
        }
        self.text[from..self.at].trim_end()
    }

    /// The same between brackets. Where it goes on in the next line, it is no number.
    fn flow_plain(&mut self) -> &'a str {
        let from = self.at;
        loop {
            let ends_key = |s: &Self| s.is_blank(1) || matches!(s.peek_at(1), b',' | b'[' | b']' | b'{' | b'}');
            self.plain(|s, _| matches!(s.peek(), b',' | b'[' | b']' | b'{' | b'}') || s.peek() == b':' && ends_key(s));
            let (at, line) = (self.at, self.line);
            self.spaces_and_comments();
            if at == self.at || matches!(self.peek(), 0 | b',' | b'[' | b']' | b'{' | b'}' | b':') {
                (self.at, self.line) = (at, line);
                return self.text[from..at].trim_end();
            }
        }
    }

    /// A value without quotes.
    fn value(&mut self, of: Option<Field>, text: &'a str, anchor: Option<&'a str>, line: usize) -> Result<(), String> {
        if of.is_none() && anchor.is_none() {
            return Ok(());
        }
        let id = match text.strip_prefix('*') {
            Some(name) => match self.anchors.iter().rev().find(|(known, _)| *known == name) {
                Some((_, id)) => Ok(Some(*id)),
                None => Err(format!("{:?}, which names no number above", cut(text))),
            },
            None => id(text),
        };
        if let (Some(name), Ok(Some(id))) = (anchor, &id)
            && self.anchors.len() < MAX_ANCHORS
        {
            self.anchors.push((name, *id));
        }
        let Some(field) = of else { return Ok(()) };
        if let Some(id) = id.map_err(|e| format!("line {line}: {field} is {e}"))? {
            let ids = &mut self.ids[usize::from(field != USER)];
            if ids.len() as u64 >= MAX_LISTED {
                return Err(format!("line {line}: over {MAX_LISTED} ids"));
            }
            ids.push(id);
        }
        Ok(())
    }

    /// A value in quotes.
    fn string(&self, of: Option<Field>, text: &str, line: usize) -> Result<(), String> {
        match of {
            Some(field) => {
                let what = format!("line {line}: {field} is a string, {:?}", cut(text));
                Err(format!("{what}, and Kubernetes takes only numbers: remove the quotes"))
            }
            None => Ok(()),
        }
    }

    fn template(&self) -> String {
        let rest = self.rest().lines().next().unwrap_or_default();
        format!("line {}: a template, {:?}: render the chart first, helm template", self.line, cut(rest))
    }

    /// Passes over `&anchor` and `!tag`; the anchor's name.
    fn properties(&mut self) -> Option<&'a str> {
        let mut anchor = None;
        while matches!(self.peek(), b'&' | b'!') {
            let from = self.at;
            while !matches!(self.peek(), 0 | b'\n' | b',' | b'[' | b']' | b'{' | b'}') && !self.is_blank(0) {
                self.at += 1;
            }
            anchor = self.text[from..self.at].strip_prefix('&').or(anchor);
            self.blanks();
        }
        anchor
    }

    /// Passes over lines that are empty or to the right of a column.
    fn skip_text(&mut self, above: isize) {
        while self.at < self.text.len() {
            let start = self.at;
            // As a tab is part of the text.
            let column = self.rest().bytes().take_while(|b| *b == b' ').count() as isize;
            self.blanks();
            let ends_document = above < 0 && column == 0 && {
                let mark = self.rest().get(..3).unwrap_or_default();
                matches!(mark, "---" | "...") && self.is_blank(3)
            };
            if self.peek() != b'\n' && column <= above || ends_document {
                self.at = start;
                return;
            }
            self.skip_line();
        }
    }

    /// Whether a key's ':' is next, after blanks.
    fn ends_key(&mut self, may_be_key: bool) -> bool {
        self.blanks();
        may_be_key && self.peek() == b':' && self.is_blank(1)
    }

    /// Passes over what may follow a value: nothing, or a comment.
    fn end_line(&mut self) -> Result<(), String> {
        self.blanks();
        match self.peek() {
            0 | b'\n' | b'#' => {
                self.skip_line();
                Ok(())
            }
            _ => {
                let rest = self.rest().lines().next().unwrap_or_default();
                Err(format!("line {}: {:?} follows a value", self.line, cut(rest)))
            }
        }
    }

    fn skip_line(&mut self) {
        self.at = self.rest().find('\n').map_or(self.text.len(), |n| self.at + n + 1);
        self.line += 1;
    }

    fn spaces_and_comments(&mut self) {
        loop {
            let before = self.at.checked_sub(1).map_or(b' ', |at| self.text.as_bytes()[at]);
            match self.peek() {
                b'#' if is_space(before) => self.skip_line(),
                b'\n' => self.skip_line(),
                c if is_space(c) => self.at += 1,
                _ => return,
            }
        }
    }

    /// Passes over blanks; how many.
    fn blanks(&mut self) -> isize {
        let from = self.at;
        while matches!(self.peek(), b' ' | b'\t' | b'\r') {
            self.at += 1;
        }
        (self.at - from) as isize
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte; 0 at the end.
    fn peek(&self) -> u8 {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Whether there is a space or an end so far ahead.
    fn is_blank(&self, ahead: usize) -> bool {
        let c = self.peek_at(ahead);
        c == 0 || is_space(c)
    }
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

/// A number as Kubernetes' reader has it (YAML 1.1): decimal, 0x1f, 0o17, 017 and 0b11, with `_` anywhere.
/// None: null.
fn id(text: &str) -> Result<Option<u32>, String> {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Ok(None);
    }
    let digits = text.strip_prefix('+').unwrap_or(text).replace('_', "");
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (&*digits, 10),
    };
    let number = digits.strip_prefix('-').unwrap_or(digits);
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_digit(radix));
    match u32::from_str_radix(digits, radix) {
        Ok(id) if id <= MAX_ID && is_number => Ok(Some(id)),
        _ if is_number => Err(format!("{:?}, not an id (0-{MAX_ID})", cut(text))),
        _ => Err(format!("{:?}, not a whole number", cut(text))),
    }
}

#[cfg(test)]
mod tests;
