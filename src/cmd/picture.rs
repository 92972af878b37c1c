//! Maps as pictures: bars for the terminal, and SVG.

use super::text::{put, span};
use crate::map::chain::Band;
use crate::map::idmap::IdMap;

/// The longest bar, in columns.
const BAR: u64 = 28;
/// SVG: more lines than this of one part are only counted.
const MOST: usize = 24;
/// SVG: the size of a box, the gap between columns, and the margin, in pixels.
const BOX: usize = 220;
const GAP: usize = 60;
const MARGIN: usize = 20;

/// A bar for each extent, as long as it has ids, with its ids at both ends and those outside beside it.
pub fn bars(map: &IdMap, inside: &str, outside: &str) -> String {
    let mut text = format!("{inside:>10}{:>42}  {outside}\n", "");
    let longest = map.extents().iter().map(|e| e.count).max().unwrap_or(1) as u64;
    for e in map.extents() {
        let bar = format!("[{}]", "#".repeat((e.count as u64 * BAR / longest).max(1) as usize));
        let last = if e.count == 1 { String::new() } else { (e.inside + (e.count - 1)).to_string() };
        put(&mut text, format_args!("{:>10} {bar:<30} {last:<10}  {}\n", e.inside, span(e.outside, e.count)));
    }
    text
}

/// Parts with headings, each the bands of maps as boxes, the innermost column at the left, as in text. `columns` are
/// innermost first.
pub fn svg(title: &str, columns: &[&str], parts: &[(&str, Vec<Band>)]) -> String {
    const SAME: &str = "#cfe2f3";
    const OTHER: &str = "#fce5cd";
    const NONE: &str = "#f4c7c3";
    let left = |column: usize| MARGIN + column * (BOX + GAP);
    let width = left(columns.len()) - GAP + MARGIN;
    let mut body = String::new();
    let centred = |body: &mut String, x: usize, y: usize, words: std::fmt::Arguments| {
        put(body, format_args!("<text x=\"{x}\" y=\"{y}\">{words}</text>\n"));
    };
    let rect = |body: &mut String, x: usize, y: usize, width: usize, height: usize, fill| {
        let size = format_args!("width=\"{width}\" height=\"{height}\"");
        put(body, format_args!("<rect x=\"{x}\" y=\"{y}\" {size} fill=\"{fill}\"/>\n"));
    };
    centred(&mut body, width / 2, 30, format_args!("{title}"));
    let mut y = 60;
    for (heading, bands) in parts {
        for (column, name) in columns.iter().enumerate() {
            centred(&mut body, left(column) + BOX / 2, y, format_args!("{heading}: {name}"));
        }
        y += 14;
        for band in bands.iter().take(MOST) {
            // A box grows with the number of binary digits of its size: all sizes from 1 to 2^32 stay readable.
            let height = 24 + 3 * (u32::BITS - band.count.leading_zeros()) as usize;
            let middle = y + height / 2;
            for (column, first) in band.firsts.iter().enumerate() {
                let (x, ends) = (left(column), band.firsts.len() < columns.len() && column + 1 == band.firsts.len());
                let (fill, not) = match ends {
                    true => (NONE, "no "),
                    false => (if *first == band.firsts[0] { SAME } else { OTHER }, ""),
                };
                if column > 0 {
                    put(&mut body, format_args!("<path d=\"M{x} {middle}h-{GAP}\"/>\n"));
                }
                rect(&mut body, x, y, BOX, height, fill);
                centred(&mut body, x + BOX / 2, middle + 5, format_args!("{not}{}", span(*first, band.count)));
            }
            y += height + 6;
        }
        if bands.len() > MOST {
            centred(&mut body, width / 2, y + 14, format_args!("and {} more lines", bands.len() - MOST));
            y += 20;
        }
        y += 30;
    }
    for (n, (fill, words)) in
        [(SAME, "same number"), (OTHER, "other number"), (NONE, "no such id")].into_iter().enumerate()
    {
        let x = MARGIN + n * (width - 2 * MARGIN) / 3;
        rect(&mut body, x, y - 12, 16, 16, fill);
        centred(&mut body, x + 80, y, format_args!("{words}"));
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{title}</title>\n\
         <style>text{{font:13px monospace;text-anchor:middle}}rect,path{{stroke:#444}}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\" style=\"stroke:none\"/>\n{body}</svg>\n"
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::map::chain::bands;

    fn map(text: &str) -> IdMap {
        IdMap::parse(text).unwrap()
    }

    #[test]
    fn bars_have_ids_at_both_ends() {
        assert_eq!(
            bars(&map("0 2937359488 2044\n65532 2937361532 4\n70000 4294967294 1"), "node", "around the node"),
            "      node                                            around the node
         0 [############################] 2043        2937359488-2937361531
     65532 [#]                            65535       2937361532-2937361535
     70000 [#]                                        4294967294\n"
        );
        let widest = bars(&map("2147483647 2147483647 2147483648\n0 0 2147483647"), "container", "around the node");
        assert!(widest.lines().all(|l| l.len() <= 80), "{widest}");
    }

    /// Whether every tag is closed in its turn, attributes are quoted, and nothing but tags and plain text is there.
    pub fn assert_well_formed(text: &str) {
        let mut open = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains(['>', '&']), "{}", &rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert!(!tag.contains(['<', '&']) && tag.matches('"').count().is_multiple_of(2), "{tag}");
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(name),
            }
            rest = &rest[end + 1..];
        }
        assert_eq!((open.len(), rest), (0, "\n"));
    }

    #[test]
    fn svg_is_well_formed_and_the_same_each_time() {
        let chain = [map("0 500000 196608"), map("0 65536 131071"), map("0 65536 65536")];
        let columns = ["level 3", "level 2", "level 1", "host"];
        let picture = || svg("a chain", &columns, &[("ids", bands(&chain))]);
        let text = picture();
        assert_eq!(text, picture());
        assert_well_formed(&text);
        for part in
            ["<svg xmlns=", "<title>a chain</title>", ">0-65534</text>", ">631072-696606</text>", ">no 131071</text>"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_well_formed(&svg("none", &["node", "host"], &[]));
    }

    /// As the text has it: what is inside at the left; users, then groups; and not without end.
    #[test]
    fn svg_has_the_order_of_the_text() {
        let every_other: String = (0..340).map(|n| format!("{} {n} 1\n", 2 * n)).collect();
        let parts = [("uids", bands(&[map("0 100000 2048")])), ("gids", bands(&[map(&every_other)]))];
        let text = svg("a node", &["node", "around"], &parts);
        assert_well_formed(&text);
        let x = |words: &str| -> usize {
            let line = text.lines().find(|line| line.contains(words)).unwrap();
            line.split('"').nth(1).unwrap().parse().unwrap()
        };
        assert!(x(">0-2047<") < x(">100000-102047<") && x(">uids: node<") == x(">gids: node<"));
        let at = |words| text.find(words).unwrap();
        assert!(at(">uids: node<") < at(">gids: node<") && at(">46<") < at(">and 316 more lines<"));
        assert!(!text.contains(">48<") && at(">and 316 more lines<") < at(">same number<"));
    }
}
