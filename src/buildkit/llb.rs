//! The little of LLB that is made here: an empty root filesystem with our helper in it.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::file_action::Action;
use bollard_buildkit_proto::pb::op::Op as Kind;
use bollard_buildkit_proto::pb::{
    Definition, FileAction, FileActionMkDir, FileActionMkFile, FileOp, Input, Op, OpMetadata, Platform,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Where the helper is in its container.
pub(super) const HELPER: &str = "/imagefs-helper";

/// What a runtime mounts something on.
const STUBS: [&str; 4] = ["/dev", "/etc", "/proc", "/sys"];

/// A filesystem with the helper, and a directory for each of so many mounts: `/f0`, `/f1`, …
pub(super) fn helper(program: &[u8], mounts: usize, platform: Platform) -> Definition {
    let dirs = STUBS.iter().map(|&dir| dir.to_owned()).chain((0..mounts).map(mount_point));
    let dirs =
        dirs.map(|path| Action::Mkdir(FileActionMkDir { path, mode: 0o755, ..FileActionMkDir::default() }));
    let file = FileActionMkFile {
        path: HELPER.to_owned(),
        mode: 0o755,
        data: program.to_vec(),
        ..FileActionMkFile::default()
    };
    let actions: Vec<Action> = std::iter::once(Action::Mkfile(file)).chain(dirs).collect();
    let last = actions.len().saturating_sub(1);
    let actions = actions.into_iter().enumerate().map(|(at, action)| FileAction {
        // Nothing, or what the action before has made.
        input: if at == 0 { -1 } else { at as i64 - 1 },
        secondary_input: -1,
        output: if at == last { 0 } else { -1 },
        action: Some(action),
    });
    let file = Op {
        op: Some(Kind::File(FileOp { actions: actions.collect() })),
        platform: Some(platform),
        ..Op::default()
    }
    .encode_to_vec();
    let digest = format!("sha256:{}", hex(&Sha256::digest(&file)));
    let result =
        Op { inputs: vec![Input { digest: digest.clone(), index: 0 }], ..Op::default() }.encode_to_vec();
    let name = ("llb.customname".to_owned(), "[imagefs] put a helper beside the build".to_owned());
    let metadata = OpMetadata { description: BTreeMap::from([name]), ..OpMetadata::default() };
    Definition { def: vec![file, result], metadata: [(digest, metadata)].into_iter().collect(), source: None }
}

/// Where a mount is in the helper's container.
pub(super) fn mount_point(index: usize) -> String {
    format!("/f{index}")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
