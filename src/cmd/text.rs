//! Text for a terminal of 80 columns.

use std::fmt;

pub const WIDTH: usize = 80;

/// Writes to the end of a text. A function of its own, since `+= &format!()` everywhere is a larger program.
pub fn put(text: &mut String, words: fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = fmt::Write::write_fmt(text, words);
}

/// `7` or `7-9`, as lists are written.
pub fn span(first: u32, count: u32) -> String {
    if count == 1 { first.to_string() } else { format!("{first}-{}", first + (count - 1)) }
}

/// Words in lines of at most 80 columns, the first of which begins with `label`. All but the last end with `joint`; all but
/// the first begin where the words of the first do, and so many columns to the right.
pub fn fill(text: &mut String, label: &str, hang: usize, joint: &str, words: &mut dyn Iterator<Item = &str>) {
    let mut column = label.len();
    text.push_str(label);
    for (n, word) in words.enumerate() {
        let width = word.chars().count();
        if n > 0 && column + 1 + width + joint.len() > WIDTH {
            column = label.len() + hang;
            put(text, format_args!("{joint}\n{:column$}", ""));
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

/// A paragraph beside a label, broken at blanks.
pub fn paragraph(text: &mut String, label: &str, words: &str) {
    fill(text, label, 0, "", &mut words.split(' '));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_broken() {
        let broken = |label, words: &str| {
            let mut text = String::new();
            paragraph(&mut text, label, words);
            text
        };
        assert_eq!(broken("a", ""), "a\n");
        let list: Vec<String> = (0..40).map(|i| (i * 100).to_string()).collect();
        let text = broken("native  ", &list.join(", "));
        assert!(text.lines().count() == 4 && text.lines().all(|l| l.len() <= 80), "{text}");
        assert_eq!(text.split_whitespace().collect::<String>(), format!("native{}", list.join(",")));
    }
}
