//! All that an engine has, in one mount: names from the engine's lists, and behind each what a mount of its own would show.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use super::control::{Answer, Listener, Request};
use super::layout::{self, Shown};
use super::options::MountOptions;
use super::sessions::{Record, Registration, Stage};
use crate::cache::Cache;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::process::scoped_task::{Ended, Woken, during};
use crate::fuse::{
    Catalog, CatalogOptions, Directory, Notifier, OpenedSource, Outline, Provider, SourceName,
};
use crate::gateway::Pattern;
use crate::image::Platform;
use crate::index::Timestamp;
use crate::progress::Progress;
use crate::source::{self, EngineWatch, ExportLimit, Inventory};

/// How the source is spelled: containers-transports(5) has no word for it.
pub const LOCAL: &str = "local:";

/// Exports that a mount has under way at one time.
const EXPORTS: usize = 2;

/// How often it is looked what is in use.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a source that nobody uses stays open.
const IDLE: Duration = Duration::from_secs(60);

/// Sources that stay open though nobody has used them for a moment.
const MOST: usize = 64;

/// How the sources of an engine are opened.
pub struct EngineProvider {
    /// Where what was read is kept.
    pub cache: Cache,
    /// The engine's address, where the user gave one.
    pub host: Option<String>,
    /// The platform that is wanted of each image, where the user gave one.
    pub platform: Option<Platform>,
    /// Bytes that one layer may unpack to, where the user set a limit.
    pub max_size: Option<u64>,
    /// How they are shown.
    pub options: MountOptions,
    /// How many are read at one time.
    exports: ExportLimit,
}

/// An engine, shown.
pub struct LocalEngine {
    /// What is mounted.
    pub catalog: Arc<Catalog>,
    watch: EngineWatch,
    only: Option<Pattern>,
    /// What is known of an image that nobody has entered.
    outline: Outline,
}

impl LocalEngine {
    /// Finds the engine, and lays out what it has.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn open(
        cache: &Cache,
        context: &source::Context<'_>,
        options: &MountOptions,
    ) -> Result<LocalEngine, CommandError> {
        let (watch, inventory) = EngineWatch::connect(context.host)?;
        let provider = EngineProvider {
            cache: cache.clone(),
            host: context.host.map(str::to_owned),
            platform: context.platform.cloned(),
            max_size: context.max_size,
            options: options.clone(),
            exports: ExportLimit::new(EXPORTS),
        };
        let only = options.only.as_ref().map(Pattern::new);
        let outline = match options.flat || options.layers {
            true => Outline::Unknown,
            false => Outline::RootAndDescription,
        };
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let catalog_options = CatalogOptions {
            uid: options.uid.unwrap_or(0),
            gid: options.gid.unwrap_or(0),
            mtime: Timestamp {
                secs: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
                nanos: since_epoch.subsec_nanos(),
            },
        };
        let names = names(&inventory, only.as_ref(), outline);
        let catalog = Catalog::new(names, Arc::new(provider), catalog_options)
            .map_err(|e| CommandError::new(Kind::Failed, "cannot start a thread").caused_by(e))?;
        Ok(LocalEngine { catalog: Arc::new(catalog), watch, only, outline })
    }

    /// Follows the engine, closes what nobody uses, and does what commands ask, until the session has ended.
    pub fn serve(&self, notifier: &Notifier, registration: &mut Registration, ended: &Ended) {
        let kept = during(
            |_| {
                self.watch.follow(|inventory| {
                    self.catalog.show(names(inventory, self.only.as_ref(), self.outline));
                })
            },
            || {
                self.keep(notifier, registration, ended);
                self.watch.stop();
                Ok(())
            },
        );
        if let Err(error) = kept {
            tracing::error!("{}", error.message());
        }
    }

    fn keep(&self, notifier: &Notifier, registration: &mut Registration, ended: &Ended) {
        let mut listener = Listener::open(registration.socket_path())
            .inspect_err(|error| tracing::warn!("the mount cannot be refreshed: {error}"))
            .ok();
        loop {
            self.record(registration);
            match ended.or_ready(listener.as_ref().map(Listener::as_fd), Some(INTERVAL)) {
                Woken::Ended => return,
                Woken::Neither => self.close_idle(notifier),
                Woken::Ready => {
                    if let Err(error) = listener.as_ref().map_or(Ok(()), |listener| self.receive(listener)) {
                        tracing::warn!("no more requests are taken: {error}");
                        listener = None;
                    }
                }
            }
        }
    }

    /// Has the kernel drop what nobody uses, so that it can be closed the next time.
    fn close_idle(&self, notifier: &Notifier) {
        notifier.drop_names(self.catalog.housekeep(IDLE, MOST));
    }

    fn receive(&self, listener: &Listener) -> std::io::Result<()> {
        let Some(caller) = listener.accept()? else { return Ok(()) };
        match caller.request() {
            Ok(Request::Refresh) => {
                self.catalog.refresh();
                caller.tell(&Answer::Done);
            }
            Err(error) => {
                let failed = CommandError::new(Kind::Failed, "cannot read the request").caused_by(error);
                caller.tell(&Answer::Failed(failed));
            }
        }
        Ok(())
    }

    /// Writes down what is open.
    pub fn record(&self, registration: &mut Registration) {
        let mut now = registration.record().clone();
        self.tell(&mut now);
        if now != *registration.record() {
            super::supervisor::record(registration, |record| *record = now);
        }
    }

    fn tell(&self, record: &mut Record) {
        let usage = self.catalog.usage();
        let failures = self.catalog.failures();
        record.id = self.watch.name().to_owned();
        record.stage = if usage.filling > 0 { Stage::Filling } else { Stage::Ready };
        record.failure = (!failures.is_empty()).then(|| failures.join("; "));
        record.open = self.catalog.open_names();
    }
}

impl Provider for EngineProvider {
    fn open(&self, key: &str) -> Result<OpenedSource, String> {
        let progress = Arc::new(Progress::new());
        let is_image = key.starts_with(IMAGE);
        let context = source::Context {
            host: self.host.as_deref(),
            platform: self.platform.as_ref().filter(|_| is_image),
            max_size: self.max_size,
            exact: self.options.exact && is_image,
            exports: Some(&self.exports),
            ..source::Context::new(&self.cache, &progress)
        };
        let opened = source::open_when_asked(OsStr::new(key), &context).map_err(|e| e.to_string())?;
        let options = MountOptions {
            flat: self.options.flat || key.starts_with(VOLUME),
            layers: self.options.layers && is_image,
            provenance: self.options.provenance && is_image,
            ..self.options.clone()
        };
        let shown: Shown = Arc::new(RwLock::new(opened));
        let view = layout::view(&shown, &options).map_err(|e| e.message().to_owned())?;
        Ok(OpenedSource { view, keep: Box::new(shown) })
    }
}

const IMAGE: &str = "docker-daemon:";
const CONTAINER: &str = "container:";
const VOLUME: &str = "volume:";

/// The names for what an engine has: `images`, `containers` and `volumes`, of each what fits the pattern.
fn names(inventory: &Inventory, only: Option<&Pattern>, outline: Outline) -> Directory {
    let wanted = |name: &str| only.is_none_or(|only| only.matches(name));
    let mut top = Directory::default();
    for kind in ["containers", "images", "volumes"] {
        top.directory(kind.as_bytes());
    }
    let insert = |top: &mut Directory, kind: &str, name: &str, source: SourceName| {
        let path: Vec<&[u8]> =
            [kind.as_bytes()].into_iter().chain(name.split('/').map(str::as_bytes)).collect();
        if !top.insert(&path, source) {
            tracing::debug!("{kind}: {name:?} cannot be shown by that name");
        }
    };
    for image in &inventory.images {
        let source = SourceName {
            key: format!("{IMAGE}{}", image.id),
            mtime: seconds(image.created),
            outline,
            renewable: false,
        };
        for name in image.names.iter().filter(|name| wanted(name)) {
            insert(&mut top, "images", name, source.clone());
        }
        if image.names.iter().any(|name| wanted(name)) || wanted(&image.id.to_string()) {
            insert(&mut top, "images", &format!("@{}", image.id), source);
        }
    }
    for container in inventory.containers.iter().filter(|container| wanted(&container.name)) {
        let source = SourceName {
            key: format!("{CONTAINER}{}", container.id),
            mtime: seconds(container.created),
            outline: Outline::Unknown,
            renewable: true,
        };
        if let Some(containers) = top.directory(b"containers") {
            containers.insert_id(container.id.as_str(), source.clone());
            containers.insert(&[container.name.as_bytes()], source);
        }
    }
    for volume in inventory.volumes.iter().filter(|volume| wanted(&volume.name)) {
        let source = SourceName {
            key: format!("{VOLUME}{}", volume.name),
            mtime: volume.created.map(seconds).unwrap_or_default(),
            outline: Outline::Unknown,
            renewable: true,
        };
        if let Some(volumes) = top.directory(b"volumes") {
            volumes.insert(&[volume.name.as_bytes()], source);
        }
    }
    top
}

fn seconds(time: jiff::Timestamp) -> Timestamp {
    Timestamp { secs: time.as_second(), nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{ContainerSummary, ImageSummary, VolumeSummary};

    fn inventory() -> Inventory {
        let image = |digit: &str, names: &[&str]| ImageSummary {
            id: format!("sha256:{}", digit.repeat(64)).parse().unwrap(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            created: jiff::Timestamp::from_second(7).unwrap(),
        };
        Inventory {
            images: vec![image("a", &["web:1", "ghcr.io/org/web:1"]), image("b", &[])],
            containers: vec![ContainerSummary {
                id: "c".repeat(64).parse().unwrap(),
                name: "web".to_owned(),
                created: jiff::Timestamp::default(),
            }],
            volumes: vec![VolumeSummary { name: "data".to_owned(), created: None }],
            refused: Vec::new(),
        }
    }

    fn paths(directory: &Directory, above: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (name, item) in directory.entries() {
            let path = format!("{above}/{}", String::from_utf8_lossy(name));
            match item {
                crate::fuse::Item::Directory(below) => {
                    found.push(format!("{path}/"));
                    found.extend(paths(below, &path));
                }
                crate::fuse::Item::Source(_) => found.push(path),
            }
        }
        found
    }

    #[test]
    fn what_an_engine_has_is_laid_out_by_name_and_by_id() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let expected = [
            "/containers/".to_owned(),
            "/containers/web".to_owned(),
            "/images/".to_owned(),
            format!("/images/@sha256:{a}"),
            format!("/images/@sha256:{b}"),
            "/images/ghcr.io/".to_owned(),
            "/images/ghcr.io/org/".to_owned(),
            "/images/ghcr.io/org/web:1".to_owned(),
            "/images/web:1".to_owned(),
            "/volumes/".to_owned(),
            "/volumes/data".to_owned(),
        ];
        assert_eq!(paths(&names(&inventory(), None, Outline::Unknown), ""), expected);
        let only = Pattern::new("ghcr.io/*");
        let expected = [
            "/containers/".to_owned(),
            "/images/".to_owned(),
            format!("/images/@sha256:{a}"),
            "/images/ghcr.io/".to_owned(),
            "/images/ghcr.io/org/".to_owned(),
            "/images/ghcr.io/org/web:1".to_owned(),
            "/volumes/".to_owned(),
        ];
        assert_eq!(paths(&names(&inventory(), Some(&only), Outline::Unknown), ""), expected);
    }
}
