use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, RwLock};
use std::{env, fs};

use clap::Args;

use super::context::{Context, SourceArgs};
use crate::buildkit::{BuildRequest, FailedStep, Report};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::printer::Printer;
use crate::cli::server::background::{self, Detached};
use crate::cli::server::layout::view;
use crate::cli::server::mountpoint::Mountpoint;
use crate::cli::server::options::MountOptions;
use crate::cli::server::serve::{Errand, MountContent, Prepared, serve};
use crate::source::{self, Built};

const EXAMPLES: &str = "\
Examples:
  imagefs build . /mnt/b                       then look into /mnt/b/rootfs
  imagefs build --on-error --mkdir . ./failed  mount only what a step left
  imagefs build --target test -f ci/Dockerfile . /mnt/b
  imagefs build --secret id=token,env=TOKEN --build-arg V=1 . /mnt/b
  imagefs build --buildkit unix:///run/buildkit/buildkitd.sock . /mnt/b

At the mountpoint, where the build succeeded:
  rootfs             the result
Where a step failed:
  rootfs             the root filesystem as the step left it
  before             the same before the step
  NAME               a cache or bind mount of the step, named after its target
  copy-source        what COPY was to copy from, where that was not found; of
                     a context, only what the build had asked for

Mount options are those of `imagefs mount`. The daemon keeps what is shown until it is unmounted.";

/// Build an image, and mount the result, or what a step left that failed
///
/// The build is made by the daemon's BuildKit, or by a buildkitd, without any other program. Where a step fails, the command says
/// which, and ends with status 9; the mount stands all the same, and shows what the step had. Nothing is read of a
/// filesystem that nobody looks into.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct BuildArgs {
    /// The directory that COPY and ADD take files from; its .dockerignore is heeded
    context: PathBuf,
    /// An empty directory
    mountpoint: PathBuf,
    /// The Dockerfile; without it, Dockerfile in CONTEXT
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stage to build; without it, the last one
    #[arg(long, visible_alias = "stage", value_name = "STAGE")]
    target: Option<String>,
    /// Set an ARG; without a value, to that of the environment's variable
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Give the build a secret, as for docker build: id=ID, and src=FILE or env=NAME. It is never shown
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    secret: Vec<String>,
    /// The network of RUN
    #[arg(long, value_name = "MODE", value_parser = ["none", "host"])]
    network: Option<String>,
    /// Run every step anew
    #[arg(long)]
    no_cache: bool,
    /// Build with the buildkitd at this address instead of the daemon, as in unix:///run/buildkit/buildkitd.sock
    #[arg(long, value_name = "URL", conflicts_with = "host")]
    buildkit: Option<String>,
    /// Mount nothing if the build succeeds
    #[arg(long)]
    on_error: bool,
    /// Mount options, as for `imagefs mount`
    #[arg(short, value_name = "OPTION[,…]")]
    options: Vec<String>,
    /// Stay in the foreground, and unmount on Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Make MOUNTPOINT, and remove it after unmounting
    #[arg(long)]
    mkdir: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

impl BuildArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let options = MountOptions::parse(&self.options, rustix::process::geteuid().is_root())?;
        if options.remount {
            return Err(CommandError::new(Kind::Usage, "a build cannot be remounted: it is made anew"));
        }
        let request = self.request()?;
        if !self.foreground && !context.global.server {
            return background::launch();
        }
        let detached = if context.global.server { Some(Detached::begin()?) } else { None };
        let cache = context.cache()?;
        let mountpoint = Mountpoint::check(&self.mountpoint, self.mkdir, cache.dir())?;
        let mut spelled = OsString::from("build:");
        spelled.push(&self.context);
        let errand = Errand {
            source: &spelled,
            mountpoint: &mountpoint,
            register: context.register()?,
            log_file: context.global.log_file.as_deref(),
            printer: &context.printer,
            detached,
        };
        serve(errand, |progress| {
            let printer = context.printer.clone();
            let report = Box::new(move |report| tell(&printer, report));
            let source_context = self.source_args.context(&cache, progress);
            let built = source::build(&spelled, request, self.buildkit.as_deref(), report, &source_context)?;
            let Built { source, failed } = built;
            let exit_status = match &failed {
                Some(step) => {
                    explain(&context.printer, step, &mountpoint.path);
                    Kind::StepFailed.exit_status()
                }
                None if self.on_error => return Ok(None),
                None => 0,
            };
            let config = options.session_config(&mountpoint.path, &spelled);
            let source = Arc::new(RwLock::new(source));
            let view = Box::new(view(&source, &options)?);
            let content = MountContent::Source { view, source, cache: cache.clone() };
            Ok(Some(Prepared { config, content, exit_status }))
        })
    }

    fn request(&self) -> Result<BuildRequest, CommandError> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|e| CommandError::new(Kind::Failed, format!("cannot find {path:?}")).caused_by(e))
        };
        let mut build_args = Vec::new();
        for build_arg in &self.build_arg {
            match build_arg.split_once('=') {
                Some((name, value)) => build_args.push((name.to_owned(), value.to_owned())),
                // As docker does: a variable that is not set is no argument.
                None => build_args.extend(env::var(build_arg).ok().map(|value| (build_arg.clone(), value))),
            }
        }
        Ok(BuildRequest {
            context: absolute(&self.context)?,
            dockerfile: self.file.as_deref().map(absolute).transpose()?,
            target: self.target.clone(),
            build_args,
            secrets: self
                .secret
                .iter()
                .map(|secret| read_secret(secret))
                .collect::<Result<HashMap<_, _>, _>>()?,
            network: self.network.clone(),
            no_cache: self.no_cache,
        })
    }
}

/// The longest secret that BuildKit takes, in bytes.
const MAX_SECRET: u64 = 500 << 10;

/// Reads `id=ID[,src=FILE|,env=NAME]`. Without either, the variable of that name is meant, or else the file.
fn read_secret(spelled: &str) -> Result<(String, Vec<u8>), CommandError> {
    let wrong = |why: &str| {
        CommandError::new(Kind::Usage, format!("--secret {spelled}: {why}"))
            .hint("write id=ID,src=FILE or id=ID,env=NAME")
    };
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in spelled.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value),
            Some(("src" | "source", value)) => file = Some(value),
            Some(("env", value)) => variable = Some(value),
            Some(("type", "file" | "env")) => {}
            _ => return Err(wrong(&format!("'{field}' means nothing"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id"))?;
    let value = |name: &str| env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    let value = match (file, variable) {
        (Some(_), Some(_)) => return Err(wrong("src and env are given")),
        (None, Some(name)) => value(name).ok_or_else(|| wrong(&format!("there is no variable {name}")))?,
        (None, None) if value(id).is_some() => value(id).unwrap_or_default(),
        (file, None) => {
            let path = file.unwrap_or(id);
            fs::read(path).map_err(|e| {
                let kind =
                    if e.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
                CommandError::new(kind, format!("cannot read the secret {path:?}")).caused_by(e)
            })?
        }
    };
    if value.len() as u64 > MAX_SECRET {
        return Err(wrong("BuildKit takes no secrets of more than 500 KiB"));
    }
    Ok((id.to_owned(), value))
}

/// Tells how a build goes on, in the plain form of docker build.
fn tell(printer: &Printer, report: Report) {
    match report {
        Report::Began { step, name } => printer.note(format!("#{step} {name}")),
        Report::Said { step, line } => printer.note(format!("#{step} {line}")),
        Report::Done { step, took: Some(took) } => {
            printer.note(format!("#{step} DONE {:.1}s", took.as_secs_f64()));
        }
        Report::Done { step, took: None } => printer.note(format!("#{step} CACHED")),
        Report::Failed { step, why: Some(why) } => printer.note(format!("#{step} ERROR: {why}")),
        Report::Failed { step, why: None } => printer.note(format!("#{step} CANCELED")),
    }
}

/// Says which step has failed, with the end of its output.
fn explain(printer: &Printer, step: &FailedStep, mountpoint: &Path) {
    if !step.output.is_empty() {
        printer.note("------");
        printer.note(format!(" > {}:", step.name));
        step.output.iter().for_each(|line| printer.note(line));
        printer.note("------");
    }
    let place = match step.lines {
        Some((first, last)) if first < last => format!("lines {first} to {last} of the Dockerfile: "),
        Some((line, _)) => format!("line {line} of the Dockerfile: "),
        None => String::new(),
    };
    let message = format!("{place}{} failed: {}", step.name, step.message);
    let left = format!("what it left is mounted at {mountpoint:?}; `imagefs umount` lets go of it");
    printer.error(&CommandError::new(Kind::StepFailed, message).hint(left));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_where_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        fs::write(&file, "hush").unwrap();
        let from_file = read_secret(&format!("id=a,src={}", file.display())).unwrap();
        assert_eq!(from_file, ("a".to_owned(), b"hush".to_vec()));
        let path = env::var("PATH").unwrap().into_bytes();
        assert_eq!(read_secret("id=b,env=PATH").unwrap(), ("b".to_owned(), path.clone()));
        assert_eq!(read_secret("id=PATH").unwrap(), ("PATH".to_owned(), path));
        for (wrong, kind) in [
            ("src=x", Kind::Usage),
            ("id=x,src=a,env=b", Kind::Usage),
            ("id=x,nonsense", Kind::Usage),
            ("id=x,env=IMAGEFS_NO_SUCH_VARIABLE", Kind::Usage),
            ("id=/no/such/file", Kind::NotFound),
        ] {
            assert_eq!(read_secret(wrong).unwrap_err().kind(), kind, "{wrong}");
        }
    }
}
