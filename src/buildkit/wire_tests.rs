//! What one end says, the other understands; and nonsense neither.

use super::wire::{Attributes, MAX_FRAME, Reply, Request, split_frame};

#[test]
fn what_one_end_says_the_other_understands() {
    let requests = [
        Request::Stat(b"a/b".to_vec()),
        Request::Read { path: b"\xff".to_vec(), offset: u64::MAX, len: 7 },
        Request::Tar(Vec::new()),
        Request::More(3),
    ];
    for request in requests {
        let frame = request.encode(9, 2);
        let (id, body, len) = split_frame(&frame).unwrap().unwrap();
        assert_eq!((id, len, Request::decode(body)), (9, frame.len(), Some((2, request))));
    }
    let stat = Attributes {
        mode: 0o120777,
        uid: 1,
        gid: u32::MAX,
        links: 2,
        device: (8, 300),
        size: 1 << 40,
        mtime: (-1, 999_999_999),
        target: b"x".to_vec(),
        xattrs: vec![(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"\0".to_vec())],
    };
    for reply in [
        Reply::Stat(Box::new(stat)),
        Reply::Bytes(b"bytes".to_vec()),
        Reply::Failed(2),
        Reply::End(b"why".to_vec()),
    ] {
        let frame = [reply.encode(u64::MAX), vec![1]].concat();
        let (id, body, len) = split_frame(&frame).unwrap().unwrap();
        assert_eq!((id, len, Reply::decode(body)), (u64::MAX, frame.len() - 1, Some(reply)));
    }
}

#[test]
fn what_is_cut_is_waited_for_and_what_is_no_frame_is_refused() {
    let frame = Reply::Bytes(vec![7; 100]).encode(1);
    for end in 0..frame.len() {
        assert!(split_frame(&frame[..end]).unwrap().is_none());
    }
    for len in [0, 7, MAX_FRAME as u32 + 1, u32::MAX] {
        assert!(split_frame(&len.to_le_bytes()).is_err(), "{len}");
    }
    let stat = Reply::Stat(Box::default()).encode(1);
    for end in 12..stat.len() {
        assert_eq!(Reply::decode(&stat[12..end]), None);
    }
    assert_eq!((Reply::decode(&[9]), Request::decode(&[0; 4])), (None, None));
}
