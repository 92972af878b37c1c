//! The paths that lead to an image's accounts, as its layers leave them.

use super::layer::Layer;

/// More links in a row lead nowhere (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A link, relative to its folder; a hard one from the top.
    Link(String),
    /// A file: the start of its content. Empty if it is a device or has holes.
    File(Vec<u8>),
}

/// What is at some paths, all that lead to them included.
#[derive(Debug, Default)]
pub struct Tree(Vec<(String, Node)>);

impl Tree {
    /// Puts a layer on top.
    pub fn put(&mut self, layer: &Layer) {
        for (path, with_itself) in &layer.hides {
            let path = if *with_itself { self.place(path) } else { self.follow(path).unwrap_or_default() };
            self.remove(&path, *with_itself);
        }
        for (path, node) in &layer.nodes {
            let path = self.place(path);
            if *node != Node::Folder || self.get(&path).is_some_and(|old| *old != Node::Folder) {
                self.remove(&path, true);
            }
            if *node != Node::Folder {
                self.0.push((path, node.clone()));
            }
        }
    }

    fn get(&self, path: &str) -> Option<&Node> {
        self.0.iter().find(|(p, _)| p == path).map(|(_, node)| node)
    }

    /// Where a layer's entry is unpacked: below what a link leads to.
    fn place(&self, path: &str) -> String {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.follow(folder).filter(|f| !f.is_empty()).map_or(name.to_owned(), |f| f + "/" + name)
    }

    fn remove(&mut self, path: &str, with_itself: bool) {
        self.0.retain(|(p, _)| match p.strip_prefix(path) {
            Some("") => !with_itself,
            Some(rest) => !path.is_empty() && !rest.starts_with('/'),
            None => true,
        });
    }

    /// Where a path leads to, as runc follows it: no link leads out of the image. None: too many links.
    pub fn follow(&self, path: &str) -> Option<String> {
        let mut at = String::new();
        let mut todo: Vec<&str> = path.rsplit('/').collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let above = at.rfind('/').unwrap_or(0);
            match part {
                "" | "." => {}
                ".." => at.truncate(above),
                _ => {
                    let length = at.len();
                    at.extend([if at.is_empty() { "" } else { "/" }, part]);
                    if let Some(Node::Link(to)) = self.get(&at) {
                        links += 1;
                        if links > MAX_LINKS {
                            return None;
                        }
                        at.truncate(if to.starts_with('/') { 0 } else { length });
                        todo.extend(to.rsplit('/'));
                    }
                }
            }
        }
        Some(at)
    }

    /// The file that a path leads to. Err: links lead to this path, of which nothing is known yet, unless it was watched.
    pub fn file(&self, path: &str, watched: &[String]) -> Result<&[u8], String> {
        match self.follow(path) {
            Some(to) if watched.contains(&to) => Ok(match self.get(&to) {
                Some(Node::File(content)) => content,
                _ => &[],
            }),
            Some(to) => Err(to),
            None => Ok(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::scanned;
    use super::super::testing::{Header, file, link};
    use super::*;

    /// What is in the file that /etc/passwd leads to.
    fn passwd(layers: &[Vec<Vec<u8>>]) -> String {
        let mut watched = vec!["etc/passwd".to_owned()];
        for _ in 0..MAX_LINKS {
            let mut tree = Tree::default();
            layers.iter().for_each(|members| tree.put(&scanned(members, &watched)));
            match tree.file("etc/passwd", &watched) {
                Ok(content) => return String::from_utf8_lossy(content).into_owned(),
                Err(path) => watched.push(path),
            }
        }
        panic!("no end of links")
    }

    fn text(path: &str, content: &str) -> Vec<u8> {
        file(path, 0, 0, content.as_bytes())
    }

    #[test]
    fn links_are_followed_inside_the_image() {
        let nix = || text("nix/passwd", "nix");
        for link in [
            link("etc/passwd", b'2', "../nix/passwd"),
            link("./etc//passwd", b'2', "/nix/./passwd"),
            link("etc/passwd", b'2', "../../../../nix/passwd"),
            link("etc/passwd", b'1', "nix/passwd"),
            link("etc", b'2', "nix"),
            link("etc", b'2', "/nix/"),
        ] {
            assert_eq!(passwd(&[vec![link.clone(), nix()]]), "nix");
            assert_eq!(passwd(&[vec![nix()], vec![link.clone()]]), "nix");
            assert_eq!(passwd(&[vec![link], vec![nix()], vec![text("nix/passwd", "newer")]]), "newer");
        }
        let chain = vec![
            link("etc", b'2', "a/etc"),
            link("a", b'2', "b"),
            link("b/etc/passwd", b'2', "/c"),
            link("c", b'2', "d/e"),
            link("d", b'2', "."),
            text("e", "end"),
        ];
        assert_eq!(passwd(&[chain]), "end");
        assert_eq!(passwd(&[vec![link("etc/passwd", b'2', "passwd")]]), "");
        assert_eq!(passwd(&[vec![link("etc/passwd", b'2', "nowhere")]]), "");
        // A layer writes through the links of those below.
        assert_eq!(passwd(&[vec![link("etc", b'2', "usr/etc")], vec![text("etc/passwd", "through")]]), "through");
    }

    #[test]
    fn a_layer_hides_what_is_below() {
        let lower = || vec![text("etc/passwd", "lower")];
        let (empty, folder) = (|path| text(path, ""), |path| Header::new(path, b'5', 0, 0, 0).with(b""));
        for (members, is) in [
            (vec![], "lower"),
            (vec![empty("etc/passwd-"), empty("usr/etc/passwd"), empty("passwd"), empty("etc/.wh.passwd2")], "lower"),
            (vec![folder("etc/")], "lower"),
            (vec![empty("etc/.wh.passwd")], ""),
            (vec![empty("./etc/.wh..wh..opq")], ""),
            (vec![empty(".wh.etc")], ""),
            (vec![empty(".wh..wh..opq")], ""),
            (vec![folder("etc/passwd")], ""),
            (vec![empty("etc")], ""),
            (vec![Header::new("etc/passwd", b'3', 0, 0, 0).with(b"")], ""),
            (vec![text("etc/passwd", "upper")], "upper"),
            // What hides is about the layers below, before or after the file.
            (vec![text("etc/passwd", "upper"), empty("etc/.wh..wh..opq")], "upper"),
            (vec![empty("etc/.wh.passwd"), text("etc/passwd", "upper")], "upper"),
        ] {
            assert_eq!(passwd(&[lower(), members]), is);
        }
        let linked = vec![link("etc", b'2', "usr/etc"), text("usr/etc/passwd", "linked")];
        assert_eq!(passwd(&[linked, vec![folder("etc")], lower()]), "lower");
    }
}
