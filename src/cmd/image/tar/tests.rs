//! Archives of each format, hostile ones and damaged ones.

use super::super::testing::{Bytes, Header, archive, file, link, pax};
use super::*;

/// `kind uid:gid size@at path[ -> link]` of each entry, and how the archive ends.
fn listed(bytes: &[u8], piped: bool) -> Result<(String, bool), String> {
    let mut source = Bytes { left: bytes, piped };
    let mut reader = Reader::new(&mut source);
    let mut out = String::new();
    while let Some(e) = reader.next()? {
        let (path, link) = (String::from_utf8_lossy(reader.path()), String::from_utf8_lossy(reader.link()));
        let own = e.own.map(|(uid, gid)| format!(" own {uid}:{gid}")).unwrap_or_default();
        let arrow = if link.is_empty() { "" } else { " -> " };
        let holes = if e.sparse { " sparse" } else { "" };
        let kind = char::from(e.kind);
        out += &format!("{kind} {}:{} {}@{} {path}{arrow}{link}{own}{holes}\n", e.uid, e.gid, e.size, e.at);
    }
    Ok((out, reader.ended_with_zeros()))
}

fn list(members: &[Vec<u8>]) -> String {
    let bytes = archive(members);
    let (out, marked) = listed(&bytes, false).unwrap();
    assert!(marked);
    assert_eq!(listed(&bytes, true).unwrap(), (out.clone(), true));
    out
}

fn error(members: &[Vec<u8>]) -> String {
    let error = listed(&archive(members), false).unwrap_err();
    assert_eq!(listed(&archive(members), true).unwrap_err(), error);
    error
}

fn changed(path: &str, change: impl Fn(&mut Header)) -> Vec<u8> {
    let mut header = Header::new(path, b'0', 1, 2, 0);
    change(&mut header);
    header.with(b"")
}

#[test]
fn reads_each_format() {
    let v7 = |header: &mut Header| {
        header.0[156] = 0;
        header.set(257, &[0; 8]);
        // Not a prefix here.
        header.set(345, b"junk");
    };
    let numbers = changed("spaced", |h| {
        h.set(108, b"   1750 ");
        h.set(116, b"\0\0\0\0\0\0\0\0");
    });
    let prefixed = changed("file", |h| h.set(345, b"a/long/prefix"));
    let gnu = changed("gnu", |h| {
        h.set(257, b"ustar  \0");
        h.set(345, b"12345670123");
    });
    let signed = {
        let mut bytes = changed("signed\u{e9}", |_| {});
        let sum =
            |f: fn(u8) -> i64| -> i64 { bytes[..148].iter().chain(&bytes[156..]).map(|b| f(*b)).sum::<i64>() + 256 };
        let text = format!("{:06o}\0 ", sum(|b| i64::from(b as i8)));
        assert_ne!(sum(i64::from), sum(|b| i64::from(b as i8)));
        bytes[148..156].copy_from_slice(text.as_bytes());
        bytes
    };
    let members = [
        changed("v7/", v7),
        changed("v7/file", v7),
        numbers,
        prefixed,
        gnu,
        signed,
        file("big", 0o7777777, 1_000_660_000, &[1; 513]),
        file("last", MAX_ID, MAX_ID, b""),
        link("l", b'2', "to"),
        link("h", b'1', "big"),
    ];
    assert_eq!(
        list(&members),
        "5 1:2 0@512 v7/\n0 1:2 0@1024 v7/file\n0 1000:0 0@1536 spaced\n0 1:2 0@2048 a/long/prefix/file\n\
         0 1:2 0@2560 gnu\n0 1:2 0@3072 signedé\n0 2097151:1000660000 513@3584 big\n\
         0 4294967294:4294967294 0@5120 last\n2 0:0 0@5632 l -> to\n1 0:0 0@6144 h -> big\n"
    );
}

#[test]
fn reads_long_names_and_pax() {
    let long = "d/".repeat(150);
    let gnu_long = |kind| Header::new("././@LongLink", kind, 0, 0, 301).with(format!("{long}\0").as_bytes());
    let members = [
        gnu_long(b'L'),
        gnu_long(b'K'),
        link("short", b'2', "short"),
        pax(b'x', &[("path", "é"), ("uid", "1000660000"), ("gid", "3000000000"), ("mtime", "1.5")]),
        file("short", 7, 8, b"data"),
        pax(b'x', &[("uid", "5"), ("uid", ""), ("size", "3"), ("linkpath", "x"), ("hdrcharset", "BINARY")]),
        Header::new("sized", b'0', 7, 8, 1 << 32).with(b"abc"),
        // The headers above are not about this one.
        file("plain", 7, 8, b""),
    ];
    assert_eq!(
        list(&members),
        format!(
            "2 0:0 0@2560 {long} -> {long}\n0 1000660000:3000000000 4@4096 é\n0 7:8 3@6144 sized -> x\n\
             0 7:8 0@7168 plain\n"
        )
    );
}

#[test]
fn global_headers_are_followed_and_not() {
    let members = [
        pax(b'g', &[("uid", "500"), ("path", "all"), ("size", "999"), ("comment", "0123")]),
        file("a", 1, 2, b"x"),
        file("b", 500, 2, b""),
        pax(b'x', &[("uid", "9")]),
        file("c", 1, 2, b""),
        pax(b'g', &[("uid", "")]),
        file("d", 1, 2, b""),
    ];
    assert_eq!(list(&members), "0 500:2 1@1536 a own 1:2\n0 500:2 0@2560 b\n0 9:2 0@4096 c\n0 1:2 0@5632 d\n");
}

#[test]
fn passes_over_sparse_files() {
    let mut header = Header::new("old", b'S', 1, 2, 600);
    header.0[482] = 1;
    let mut old = header.with(b"");
    let mut more = [1; 2 * BLOCK];
    (more[504], more[BLOCK + 504]) = (1, 0);
    old.extend_from_slice(&more);
    old.extend_from_slice(&[7; 1024]);
    let new = pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.name", "new"), ("GNU.sparse.realsize", "99999")]);
    let members = [old, new, file("GNUSparseFile.0/new", 1, 2, &[7; 700]), file("after", 3, 4, b"")];
    assert_eq!(list(&members), "0 1:2 600@1536 old sparse\n0 1:2 700@4096 new sparse\n0 3:4 0@5632 after\n");
}

#[test]
fn links_and_devices_have_no_data() {
    let with_size = |kind| Header::new("x", kind, 1, 2, 1 << 20).with(b"");
    let members: Vec<Vec<u8>> = (b'1'..=b'6').map(with_size).chain([file("end", 3, 4, b"")]).collect();
    assert!(list(&members).ends_with("6 1:2 0@3072 x\n0 3:4 0@3584 end\n"));
}

#[test]
fn reads_data() {
    let bytes = archive(&[file("a", 0, 0, &[5; 100_000]), file("b", 0, 0, b"bcd")]);
    for piped in [false, true] {
        let mut source = Bytes { left: &bytes, piped };
        let mut reader = Reader::new(&mut source);
        reader.next().unwrap();
        assert_eq!(reader.data(70_000).unwrap(), [5; 70_000]);
        assert_eq!(reader.next().unwrap().unwrap().size, 3);
        assert_eq!(reader.data(100).unwrap(), b"bcd");
        assert_eq!(reader.data(100).unwrap(), b"");
        assert_eq!(reader.next().unwrap(), None);
    }
}

#[test]
fn refuses_what_cannot_be() {
    let sized = |field: &[u8]| error(&[changed("x", |h| h.set(124, field))]);
    assert_eq!(
        sized(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        "byte 0: the size 18446744073709551615 is more than any file has"
    );
    assert_eq!(sized(b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), "byte 0: the size is over 2^64-1");
    assert_eq!(sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), "byte 0: the size is negative");
    assert_eq!(sized(b"00000000099\0"), "byte 0: the size \"00000000099\\0\" is not octal");
    assert_eq!(sized(b"-0000000001\0"), "byte 0: the size \"-0000000001\\0\" is not octal");
    let owner = |id: u64| error(&[changed("../x", |h| h.octal(108, 8, id))]);
    assert_eq!(owner(4_294_967_295), "byte 0, \"../x\": the uid 4294967295 is over 4294967294");
    assert_eq!(owner(1 << 40), "byte 0, \"../x\": the uid 1099511627776 is over 4294967294");
    assert_eq!(owner(u64::MAX), "byte 0, \"../x\": the uid is negative");
    let told = |key, value| error(&[pax(b'x', &[(key, value)]), file("x", 0, 0, b"")]);
    assert_eq!(told("gid", "4294967295"), "byte 1024, \"x\": the gid 4294967295 is over 4294967294");
    assert_eq!(told("gid", "-1"), "byte 512: the PAX \"gid\" \"-1\" is not a number");
    assert_eq!(
        told("uid", "18446744073709551616"),
        "byte 512: the PAX \"uid\" \"18446744073709551616\" is not a number"
    );
    assert_eq!(
        told("size", "18446744073709551615"),
        "byte 512: the PAX size 18446744073709551615 is more than any file has"
    );
    let raw = |text: &str| error(&[Header::new("x", b'x', 0, 0, text.len() as u64).with(text.as_bytes())]);
    for text in ["6 a=b", "x a=b\n", "99 a=b\n", "0 a=b\n", "2 a=b\n", "18446744073709551615 a=b\n", "a"] {
        assert_eq!(raw(text), "byte 512: a damaged PAX header", "{text}");
    }
    assert_eq!(raw("6 abc\n"), "byte 512: a PAX record without '='");
    let flipped = changed("x", |_| {}).iter().map(|b| b ^ 1).collect();
    assert!(error(&[flipped]).starts_with("byte 0: not a tar header, its checksum \""));
    let mut wrong = changed("x", |_| {});
    wrong[0] = b'y';
    assert_eq!(error(&[file("a", 0, 0, b""), wrong]), "byte 512: not a tar header, its checksum is wrong");
    assert_eq!(error(&[vec![0; BLOCK], file("a", 0, 0, b"")]), "byte 0: a block of zeros, and more after it");
}

#[test]
fn refuses_endless_headers() {
    let large = |kind| error(&[Header::new("x", kind, 0, 0, MAX_META + 1).with(&vec![0; 2 << 20])]);
    for kind in [b'x', b'g', b'L', b'K'] {
        assert_eq!(large(kind), "byte 512: a header of 1048577 bytes, over 1048576");
    }
    for kind in [b'x', b'g'] {
        let chain: Vec<Vec<u8>> = (0..100).map(|_| pax(kind, &[("uid", "1")])).collect();
        assert_eq!(error(&chain), "byte 33792: over 32 headers about one file");
    }
    assert_eq!(error(&[pax(b'x', &[("uid", "1")])]), "cut off at byte 2048");
}

#[test]
fn a_cut_off_archive_says_where() {
    let members = [pax(b'x', &[("path", "a")]), file("x", 1, 2, &[7; 1500]), file("b", 3, 4, b"x")];
    let whole = archive(&members);
    for length in 0..whole.len() {
        for piped in [false, true] {
            match listed(&whole[..length], piped) {
                Err(e) => assert_eq!(e, format!("cut off at byte {length}")),
                // Between two members, or after the first block of zeros, the mark alone tells.
                Ok((_, marked)) => assert!(!marked && [0, 3072, 4096, 4608].contains(&length), "{length}"),
            }
        }
    }
    assert_eq!(whole.len(), 5120);
    assert!(listed(&whole, false).unwrap().1);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, changes in proptest::collection::vec((0usize..4096, 0u8..), 1..8)) {
        let _ = listed(&bytes, false);
        let mut real = archive(&[pax(b'x', &[("path", "a"), ("uid", "70000")]), file("x", 1, 2, &[7; 600])]);
        for (at, byte) in changes {
            let at = at % real.len();
            real[at] = byte;
        }
        // Headers with right checksums reach further.
        for block in [0, 2] {
            let sum: u32 = (0..BLOCK).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(real[block * BLOCK + i]) }).sum();
            real[block * BLOCK + 148..block * BLOCK + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let (seeked, piped) = (listed(&real, false), listed(&real, true));
        proptest::prop_assert_eq!(seeked, piped);
    }
}
