//! What BuildKit's error says of a step that failed, and of what it left: the details of the status, in JSON.

use bollard_buildkit_proto::google::protobuf::Any;
use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::pb::{CacheOpt, CacheSharingOpt, Mount, MountType};
use prost::Message as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::BuildError;
use super::error::printable;

/// The longest text that is taken of a detail, in bytes.
const MAX_DETAIL: usize = 4 << 20;

/// A step that failed.
#[derive(Clone, Debug, Default)]
pub struct FailedStep {
    /// What it is called: `[stage 2/3] RUN make`.
    pub name: String,
    /// Why it failed, in BuildKit's words.
    pub message: String,
    /// The exit status of its program, if that is what made it fail.
    pub exit_code: Option<u32>,
    /// Its lines in the Dockerfile, the first and the last.
    pub lines: Option<(u32, u32)>,
    /// The end of its output.
    pub output: Vec<String>,
    /// What it left, the root filesystem first.
    pub mounts: Vec<StepMount>,
    pub(super) digest: String,
}

/// A filesystem that a step had.
#[derive(Clone, Debug)]
pub struct StepMount {
    /// What it was to the step.
    pub role: Role,
    /// Where the step had it.
    pub destination: String,
    /// What of it the step had there: a path, `/` for all.
    pub selector: String,
    /// Whether the step could not write to it.
    pub read_only: bool,
    /// How it is mounted; `None` where nothing is left of it.
    pub source: Option<MountSource>,
}

impl StepMount {
    /// The root filesystem of a build that was made.
    pub(crate) fn root(source: Option<MountSource>) -> StepMount {
        let (destination, selector) = ("/".to_owned(), "/".to_owned());
        StepMount { role: Role::Root, destination, selector, read_only: false, source }
    }
}

/// What a filesystem was to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The root filesystem, as the step left it.
    Root,
    /// The root filesystem before the step.
    Before,
    /// A cache.
    Cache,
    /// Something else of the build.
    Bind,
    /// Memory.
    Tmpfs,
    /// What an instruction wanted to copy from: of a context, only what was sent.
    CopySource,
}

/// How a filesystem of a build is mounted in another container of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSource {
    result: String,
    cache: Option<CacheOpt>,
}

impl MountSource {
    /// What this reference or id stands for.
    pub(super) fn result(id: String) -> MountSource {
        MountSource { result: id, cache: None }
    }

    /// Whether nobody else can use it while it is mounted.
    pub fn is_locked(&self) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.sharing() == CacheSharingOpt::Locked)
    }

    pub(super) fn to_mount(&self, dest: String) -> Mount {
        let mount_type = if self.cache.is_some() { MountType::Cache } else { MountType::Bind };
        Mount {
            input: -1,
            output: -1,
            dest,
            // Or it would stay in the daemon for good.
            readonly: true,
            mount_type: mount_type.into(),
            cache_opt: self.cache.clone(),
            result_id: self.result.clone(),
            ..Mount::default()
        }
    }
}

/// What a status says of a step; `None` if no step is to blame, or nothing of it is left.
pub(super) fn read(status: &Status) -> Option<FailedStep> {
    let details = details(status);
    let solve: Solve = details.find("errdefs.Solve+json")?;
    let vertex: Option<Vertex> = details.find("errdefs.Vertex+json");
    let exit: Option<Exit> = details.find("gatewayapi.ExitMessage+json");
    let mounts = solve.mounts();
    if mounts.iter().all(|mount| mount.source.is_none()) {
        return None;
    }
    Some(FailedStep {
        name: printable(solve.description.get("llb.customname").map_or("a step", String::as_str)),
        message: printable(status.message()),
        exit_code: exit.and_then(|exit| exit.code),
        lines: details.lines(),
        output: Vec::new(),
        mounts,
        digest: vertex.map(|vertex| vertex.digest).unwrap_or_default(),
    })
}

/// Why a build could not be made, where no step is to blame.
pub(super) fn refusal(doing: &'static str, status: Status) -> BuildError {
    let line = details(&status).lines().map(|(first, _)| first);
    match BuildError::of(doing, status) {
        BuildError::Refused { doing, message, .. } => BuildError::Refused { doing, message, line },
        other => other,
    }
}

/// The messages that a status carries.
struct Details(Vec<Any>);

fn details(status: &Status) -> Details {
    Details(rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default())
}

impl Details {
    /// The last of a kind that can be read: the one nearest to what went wrong.
    fn find<T: DeserializeOwned>(&self, kind: &str) -> Option<T> {
        let of_kind =
            self.0.iter().filter(|any| any.type_url.ends_with(kind) && any.value.len() <= MAX_DETAIL);
        of_kind.rev().find_map(|any| match serde_json::from_slice(&any.value) {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::warn!("BuildKit's {kind} is not understood: {error}");
                None
            }
        })
    }

    fn lines(&self) -> Option<(u32, u32)> {
        let source: Source = self.find("errdefs.Source+json")?;
        let first = source.ranges.first()?.start.line;
        let last = source.ranges.last()?.end.line;
        Some((first, last.max(first)))
    }
}

#[derive(Deserialize)]
struct Vertex {
    #[serde(default)]
    digest: String,
}

#[derive(Deserialize)]
struct Exit {
    #[serde(rename = "Code")]
    code: Option<u32>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Position {
    line: u32,
}

#[derive(Deserialize)]
struct Solve {
    #[serde(default, rename = "inputIDs")]
    inputs: Vec<String>,
    #[serde(default, rename = "mountIDs")]
    mounts: Vec<String>,
    #[serde(default)]
    op: Op,
    #[serde(default)]
    description: std::collections::HashMap<String, String>,
    /// Set where the key of an instruction's input could not be reckoned: which input.
    cache: Option<Subject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subject {
    index: Number,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Op {
    exec: Option<Exec>,
    file: Option<File>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Exec {
    mounts: Vec<ExecMount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    actions: Vec<Action>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Action {
    input: Number,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExecMount {
    dest: String,
    selector: String,
    readonly: bool,
    #[serde(rename = "mountType")]
    kind: Name,
    #[serde(rename = "cacheOpt")]
    cache: Option<Cache>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cache {
    #[serde(rename = "ID")]
    id: String,
    sharing: Name,
}

/// A number, which JSON of Protobuf writes as a text if it has 64 bits. What is 0 is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Either")]
struct Number(i64);

/// The name of an enumeration's value, or its number. The first is left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(i32),
}

impl Default for Name {
    fn default() -> Name {
        Name::Number(0)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
}

impl From<Either> for Number {
    fn from(either: Either) -> Number {
        Number(match either {
            Either::Number(number) => number,
            Either::Text(text) => text.parse().unwrap_or(-1),
        })
    }
}

impl Name {
    fn mount_type(&self) -> Option<MountType> {
        match self {
            Name::Text(name) => MountType::from_str_name(name),
            Name::Number(number) => MountType::try_from(*number).ok(),
        }
    }

    fn sharing(&self) -> CacheSharingOpt {
        let sharing = match self {
            Name::Text(name) => CacheSharingOpt::from_str_name(name),
            Name::Number(number) => CacheSharingOpt::try_from(*number).ok(),
        };
        // What is not known may be held by one alone.
        sharing.unwrap_or(CacheSharingOpt::Locked)
    }
}

impl Solve {
    fn mounts(&self) -> Vec<StepMount> {
        let result =
            |id: Option<&String>| id.filter(|id| !id.is_empty()).map(|id| MountSource::result(id.clone()));
        let root = |role, source| StepMount {
            role,
            destination: "/".into(),
            selector: "/".into(),
            read_only: false,
            source,
        };
        if self.cache.is_some() {
            // The inputs are not those of the operation: there is one, which is meant.
            return vec![root(Role::CopySource, result(self.inputs.first()))];
        }
        let mut mounts = Vec::new();
        if let Some(exec) = &self.op.exec {
            for (at, mount) in exec.mounts.iter().enumerate() {
                let is_root = mount.dest == "/";
                let (role, source) = match mount.kind.mount_type() {
                    Some(MountType::Bind) => {
                        (if is_root { Role::Root } else { Role::Bind }, result(self.mounts.get(at)))
                    }
                    Some(MountType::Cache) => {
                        let cache = mount.cache.as_ref().map(|cache| MountSource {
                            result: self.mounts.get(at).cloned().unwrap_or_default(),
                            cache: Some(CacheOpt {
                                id: cache.id.clone(),
                                sharing: cache.sharing.sharing().into(),
                            }),
                        });
                        (Role::Cache, cache)
                    }
                    Some(MountType::Tmpfs) => (Role::Tmpfs, None),
                    // Not to be shown: secrets, keys, and what is not known.
                    _ => continue,
                };
                if role == Role::Root {
                    mounts.insert(0, root(Role::Before, result(self.inputs.get(at))));
                    mounts.insert(0, root(Role::Root, source));
                } else {
                    mounts.push(StepMount {
                        role,
                        destination: mount.dest.clone(),
                        selector: if mount.selector.is_empty() { "/".into() } else { mount.selector.clone() },
                        read_only: mount.readonly,
                        source,
                    });
                }
            }
        } else if let Some(file) = &self.op.file {
            // By outputs of actions, not by mounts: what came last is what was reached.
            let left = self.mounts.iter().rev().find(|id| !id.is_empty());
            let input = file.actions.first().and_then(|action| usize::try_from(action.input.0).ok());
            mounts.push(root(Role::Root, result(left)));
            mounts.push(root(Role::Before, result(input.and_then(|input| self.inputs.get(input)))));
        }
        mounts
    }
}

#[cfg(test)]
mod tests;
