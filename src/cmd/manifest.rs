//! The ids that manifests of pods and workloads name: `runAsUser`, `runAsGroup`, `fsGroup` and `supplementalGroups`,
//! wherever they stand, in YAML or JSON, the values of JSON patches for these, and our own annotation.
//!
//! A scanner, not a parser: it knows which text is a key and which a value (comments, quotes, block scalars, flow
//! collections, several documents, anchors of numbers and of lists), and what belongs to the keys above. Maps below
//! them, as in a schema or a policy, are no ids. Not read: `? key` on a line of its own, and escapes in keys.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::map::ranges::{MAX_LISTED, Ranges};
use crate::map::{MAX_ID, cut};
use crate::pod::config::ANNOTATION;

/// More is no manifest.
const MAX_SIZE: u64 = 16 << 20;
/// Brackets in brackets.
const MAX_DEPTH: usize = 64;
/// Numbers and lists with a name for later use, `&uid 10001`.
const MAX_ANCHORS: usize = 1024;

/// An id that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// The user or group id.
    pub id: u32,
    /// Whether it is a group's.
    pub group: bool,
    /// Counted from 1.
    pub line: usize,
}

/// Adds what can be read below a path: itself, or the manifests in a folder, by their names. Links to folders in it are not
/// followed.
pub fn files(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        paths.insert(paths.partition_point(|other| other.as_os_str() < path.as_os_str()), path);
    }
    for path in paths {
        let is_manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if if path.is_dir() { !path.is_symlink() } else { is_manifest && path.is_file() } {
            files(&path, found)?;
        }
    }
    Ok(())
}

/// Reads a file; `-` is stdin. An error is one line without the path.
pub fn read(path: &Path) -> Result<Vec<Id>, String> {
    let path = if path.as_os_str() == "-" { Path::new("/dev/stdin") } else { path };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("over {MAX_SIZE} bytes"));
    }
    scan(&String::from_utf8(bytes).map_err(|_| "not UTF-8: if it is UTF-16, as PowerShell writes it, convert it")?)
}

/// Finds the ids in a text. An error names the line.
pub fn scan(text: &str) -> Result<Vec<Id>, String> {
    // Every document may begin with a mark of its encoding, and lines end as anywhere.
    let (mut clean, mut rest) = (String::new(), text.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\u{feff}' => {}
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => clean.push('\n'),
            c => clean.push(c),
        }
    }
    let text = &*clean;
    if let Some(at) = text.find('\0') {
        return Err(format!("line {}: a NUL byte", text[..at].matches('\n').count() + 1));
    }
    let mut scanner = Scanner { text, at: 0, line: 1, ids: Vec::new(), anchors: Vec::new(), list: None };
    match scanner.lines() {
        Ok(()) => Ok(scanner.ids),
        Err((line, why)) => {
            // Braces of templates are YAML as well, and quotes in them end those around: any error may be theirs.
            for (n, near) in text.lines().enumerate().take(scanner.line).skip(line - 1) {
                if let Some(at) = near.find("{{").or(near.find("{%")) {
                    let (n, rest) = (n + 1, cut(&near[at..]));
                    return Err(format!("line {n}: a template, {rest:?}: render the chart first, helm template"));
                }
            }
            Err(format!("line {line}: {why}"))
        }
    }
}

/// The line of an error, and what it is.
type Fault = (usize, String);

/// A key whose value is read.
type Field = &'static str;

const USER: Field = "runAsUser";
const FIELDS: [Field; 4] = [USER, "runAsGroup", "fsGroup", "supplementalGroups"];

fn field(key: &str) -> Option<Field> {
    let ours =
        key.strip_prefix(ANNOTATION).is_some_and(|rest| matches!(rest, "" | "/pod") || rest.starts_with("/container."));
    FIELDS.into_iter().find(|field| *field == key).or(ours.then_some(ANNOTATION))
}

/// The key that a JSON patch's path leads to, `/spec/securityContext/supplementalGroups/-`.
fn patched(path: &str) -> Option<Field> {
    let path = path.trim_matches(['"', '\'']);
    let mut parts = path.rsplit('/').filter(|part| *part != "-" && part.parse::<u32>().is_err());
    parts.next().filter(|_| path.starts_with('/')).and_then(|part| field(&part.replace("~1", "/")))
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    ids: Vec<Id>,
    anchors: Vec<(&'a str, Vec<u32>)>,
    /// The anchor of the list that is being read.
    list: Option<usize>,
}

/// What a line leaves open for the next ones. Columns count from 0; what is at the top is below -1.
#[derive(Default)]
struct Open<'a> {
    /// A plain text that goes on below this column.
    plain: Option<isize>,
    /// A field at this column whose value is still to come.
    field: Option<(Field, isize)>,
    /// The column of the key whose value is a list with an anchor.
    list: isize,
    /// At this column, what a patch's path leads to, and a value that came before its path.
    patch: (isize, Option<Field>, Option<(&'a str, usize)>),
}

impl<'a> Scanner<'a> {
    /// Line by line; a bracket, quote or block of text takes all of its lines at once.
    fn lines(&mut self) -> Result<(), Fault> {
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
                if let Some((ANNOTATION, _)) = open.field {
                    let text = self.plain(|_, _| false);
                    self.value(Some(ANNOTATION), text, None, self.line)?;
                }
                self.skip_line();
                continue;
            }
            open.plain = None;
            let is_item = |scanner: &Self| matches!(scanner.peek(), b'-' | b'?') && scanner.is_blank(1);
            let ends = |of: isize| column < of || column == of && !is_item(self);
            open.field = open.field.filter(|(_, of)| !ends(*of));
            self.list = self.list.filter(|_| !ends(open.list));
            let mut above = -1;
            while is_item(self) {
                above = column;
                open.patch = Default::default();
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
        open: &mut Open<'a>,
    ) -> Result<(), Fault> {
        let anchor = self.properties();
        let line = self.line;
        let key = match self.peek() {
            b'\n' | b'#' => {
                if let Some(name) = anchor {
                    (self.list, open.list) = (self.anchor(name, Vec::new()), above);
                }
                self.skip_line();
                return Ok(());
            }
            b'|' | b'>' => {
                self.skip_line();
                let from = self.at;
                self.skip_text(above);
                return match of {
                    Some(ANNOTATION) => self.value(of, &self.text[from..self.at], None, line),
                    Some(field) => Err((line, format!("{field} is text, not a number"))),
                    None => Ok(()),
                };
            }
            b'{' | b'[' => {
                self.flow(of, anchor, 0)?;
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
        let mut field = field(key);
        let rest = self.rest().lines().next().unwrap_or_default();
        if open.patch.0 != column {
            open.patch = (column, None, None);
        }
        match (key, &mut open.patch) {
            ("path", (_, path, value)) => {
                *path = rest.split_ascii_whitespace().next().and_then(patched);
                if let (Some(field), Some((text, line))) = (*path, value.take()) {
                    self.value(Some(field), text, None, line)?;
                }
            }
            ("value", (_, path, value)) => match path {
                Some(_) => field = *path,
                None => *value = Some((rest.split(" #").next().unwrap_or_default().trim(), line)),
            },
            // A patch in a text of its own is read like what is around it.
            ("patch", _) if matches!(self.peek(), b'|' | b'>') && self.is_patch() => {
                self.skip_line();
                return Ok(());
            }
            _ => {}
        }
        open.field = field.map(|field| (field, column));
        // A value on the key's line cannot be a key again, so this goes no deeper.
        self.node(column, column, field, false, open)
    }

    /// Whether the lines after this one are a patch of Kustomize, of either kind.
    fn is_patch(&self) -> bool {
        let text = self.rest().split_once('\n').map_or("", |(_, text)| text.trim_start());
        ["- op:", "- path:", "- value:", "[", "{", "apiVersion:", "kind:"].iter().any(|start| text.starts_with(start))
    }

    /// `[…]` or `{…}`.
    fn flow(&mut self, of: Option<Field>, anchor: Option<&'a str>, depth: usize) -> Result<(), Fault> {
        let start = self.line;
        if self.rest().starts_with("{{") || self.rest().starts_with("{%") {
            return Err((start, "a template".into()));
        }
        if depth > MAX_DEPTH {
            return Err((start, format!("brackets in brackets, over {MAX_DEPTH} deep")));
        }
        let list = self.peek() == b'[';
        let around = self.list;
        if let Some(name) = anchor.filter(|_| list) {
            self.list = self.anchor(name, Vec::new());
        }
        let (mut key, mut patch, mut value) = ("", None, None);
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
                0 => return Err((start, "the bracket does not close".into())),
                c if c == close => {
                    self.at += 1;
                    self.list = around;
                    return Ok(());
                }
                c @ (b']' | b'}') => return Err((line, format!("{:?} closes nothing", char::from(c)))),
                b',' => {
                    self.at += 1;
                    (of_next, is_value) = (of.filter(|_| list), list);
                }
                b':' => {
                    self.at += 1;
                    is_value = true;
                }
                b'{' | b'[' => self.flow(of_next.filter(|_| is_value), anchor, depth + 1)?,
                c => {
                    let quoted = matches!(c, b'"' | b'\'');
                    let text = if quoted { self.quoted()? } else { self.flow_plain() };
                    self.spaces_and_comments();
                    if self.peek() == b':' {
                        (of_next, is_value, key) = (field(text).or(patch.filter(|_| text == "value")), true, text);
                        self.at += 1;
                        continue;
                    }
                    match key {
                        "path" => patch = patched(text),
                        "value" if !quoted && patch.is_none() => value = Some((text, line)),
                        _ => {}
                    }
                    if let (Some(field), Some((text, line))) = (patch, value) {
                        self.value(Some(field), text, None, line)?;
                        value = None;
                    }
                    if is_value && quoted {
                        self.string(of_next, text, line)?;
                    } else if is_value {
                        self.value(of_next, text, anchor, line)?;
                    }
                }
            }
        }
    }

    /// A quoted text, on one line or more.
    fn quoted(&mut self) -> Result<&'a str, Fault> {
        let (quote, start) = (self.peek(), self.line);
        let from = self.at + 1;
        loop {
            self.at += 1;
            match self.peek() {
                0 => return Err((start, "the quote does not end".into())),
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
    fn value(&mut self, of: Option<Field>, text: &'a str, anchor: Option<&'a str>, line: usize) -> Result<(), Fault> {
        if of == Some(ANNOTATION) {
            return self.annotation(text, line);
        }
        if of.is_none() && anchor.is_none() && self.list.is_none() {
            return Ok(());
        }
        let ids = match text.strip_prefix('*') {
            Some(name) => match self.anchors.iter().rev().find(|(known, _)| *known == name) {
                Some((_, ids)) => Ok(ids.clone()),
                None => Err(format!("{:?}, which names no number above", cut(text))),
            },
            None => id(text).map(|id| id.into_iter().collect()),
        };
        if let Ok(ids) = &ids {
            if let Some((_, list)) = self.list.and_then(|n| self.anchors.get_mut(n)) {
                list.extend(ids.iter().take(MAX_LISTED as usize - list.len()));
            }
            if let Some(name) = anchor {
                self.anchor(name, ids.clone());
            }
        }
        match of {
            Some(field) => self.push(field != USER, ids.map_err(|e| (line, format!("{field} is {e}")))?, line),
            None => Ok(()),
        }
    }

    /// Keeps what an anchor names, and says where.
    fn anchor(&mut self, name: &'a str, ids: Vec<u32>) -> Option<usize> {
        (self.anchors.len() < MAX_ANCHORS).then(|| {
            self.anchors.push((name, ids));
            self.anchors.len() - 1
        })
    }

    fn push(&mut self, group: bool, ids: Vec<u32>, line: usize) -> Result<(), Fault> {
        if (self.ids.len() + ids.len()) as u64 > MAX_LISTED {
            return Err((line, format!("over {MAX_LISTED} ids")));
        }
        self.ids.extend(ids.into_iter().map(|id| Id { id, group, line }));
        Ok(())
    }

    /// What our annotation claims.
    fn annotation(&mut self, text: &str, line: usize) -> Result<(), Fault> {
        for word in text.split_ascii_whitespace() {
            for (key, group) in [("claim-uids=", false), ("claim-gids=", true)] {
                if let Some(list) = word.strip_prefix(key) {
                    let ids = Ranges::parse(list).map_err(|e| (line, format!("{key} {e}")))?;
                    self.push(group, ids.ids().collect(), line)?;
                }
            }
        }
        Ok(())
    }

    /// A value in quotes.
    fn string(&mut self, of: Option<Field>, text: &'a str, line: usize) -> Result<(), Fault> {
        match of {
            Some(ANNOTATION) => self.annotation(text, line),
            Some(field) => {
                let what = format!("{field} is a string, {:?}", cut(text));
                Err((line, format!("{what}, and Kubernetes takes only numbers: remove the quotes")))
            }
            None => Ok(()),
        }
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
    fn end_line(&mut self) -> Result<(), Fault> {
        self.blanks();
        match self.peek() {
            0 | b'\n' | b'#' => {
                self.skip_line();
                Ok(())
            }
            _ => {
                let rest = self.rest().lines().next().unwrap_or_default();
                Err((self.line, format!("{:?} follows a value", cut(rest))))
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
