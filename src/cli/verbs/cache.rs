use std::ffi::OsString;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::candidates;
use super::context::Context;
use crate::cache::{self, Cache, EntryInfo, Key, Removal, State};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape::name;
use crate::cli::output::size;
use crate::cli::output::text;
use crate::cli::output::time::rfc3339;

/// Look after the cache
///
/// Every image that was mounted is kept, so that the next mount of it is there at once. What is not complete or damaged is
/// never used. KEY is a key as `imagefs cache ls` shows it, or at least the first four digits of one.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    Ls(LsArgs),
    Rm(RmArgs),
    Prune(PruneArgs),
    Verify(VerifyArgs),
    Dir(DirArgs),
}

/// List what is in the cache, the last used first
///
/// IMAGES says how many images share a layer.
#[derive(Debug, Args)]
struct LsArgs {
    /// Print a JSON array, with whole keys and sizes in bytes
    #[arg(long)]
    json: bool,
}

/// Remove entries
///
/// An entry that is mounted stays.
#[derive(Debug, Args)]
struct RmArgs {
    /// Which: at least the first four digits of each key
    #[arg(value_name = "KEY", required = true, add = candidates::cache_keys())]
    keys: Vec<String>,
}

/// Remove what was used longest ago until the rest is small enough
///
/// What is mounted stays. What killed processes have left behind and what is damaged goes in any case.
#[derive(Debug, Args)]
struct PruneArgs {
    /// How much may remain, as in 10GiB or 500MB; 0 removes all that is not mounted. Without it, the cache's limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// Print what was removed as a JSON object
    #[arg(long)]
    json: bool,
}

/// Check every byte of entries against their checksums, and remove the damaged ones
///
/// Exits with status 1 if any was damaged.
#[derive(Debug, Args)]
struct VerifyArgs {
    /// Which; all if none is given
    #[arg(value_name = "KEY", add = candidates::cache_keys())]
    keys: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Print where the cache is
#[derive(Debug, Args)]
struct DirArgs {
    /// Print it as a JSON string
    #[arg(long)]
    json: bool,
}

impl CacheArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        match &self.command {
            CacheCommand::Ls(args) => args.run(context),
            CacheCommand::Rm(args) => args.run(context),
            CacheCommand::Prune(args) => args.run(context),
            CacheCommand::Verify(args) => args.run(context),
            CacheCommand::Dir(args) => args.run(context),
        }
    }
}

/// An entry, as JSON shows it.
#[derive(Serialize)]
struct Row {
    key: Key,
    state: &'static str,
    in_use: bool,
    #[serde(with = "text")]
    source: OsString,
    kind: Option<&'static str>,
    identity: Option<String>,
    platform: Option<String>,
    entries: Option<u64>,
    size_on_disk: u64,
    created: Option<String>,
    last_used: Option<String>,
    needed_by: Vec<Key>,
}

impl From<&EntryInfo> for Row {
    fn from(info: &EntryInfo) -> Row {
        let meta = info.meta.as_ref();
        let content = meta.map(|meta| &meta.content);
        let since_epoch =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs());
        Row {
            key: info.key,
            state: state_name(&info.state),
            in_use: info.in_use,
            source: meta.map(|meta| meta.about.source.clone()).unwrap_or_default(),
            kind: content.map(|content| content.kind.name()),
            identity: content.map(|content| content.identity.clone()),
            platform: content.and_then(|content| content.platform.as_ref()).map(ToString::to_string),
            entries: meta.map(|meta| meta.about.entries),
            size_on_disk: info.size_on_disk,
            created: meta.and_then(|meta| rfc3339(meta.created)),
            last_used: since_epoch(info.last_used).and_then(rfc3339),
            needed_by: info.needed_by.clone(),
        }
    }
}

fn state_name(state: &State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Filling => "filling",
        State::Temporary => "temporary",
        State::Damaged(_) => "damaged",
    }
}

impl LsArgs {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let entries = context.cache()?.ls()?;
        let rows: Vec<Row> = entries.iter().map(Row::from).collect();
        if self.json {
            context.printer.json(&rows)?;
        } else {
            let cells: Vec<_> = rows.iter().map(cells).collect();
            context.printer.table(
                ["KEY", "SOURCE", "KIND", "IMAGES", "SIZE", "ENTRIES", "LAST USED", "STATE"],
                &cells,
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn cells(row: &Row) -> [String; 8] {
    let is_layer = row.kind == Some(cache::Kind::Layer.name());
    let state = if row.in_use { format!("{}, in use", row.state) } else { row.state.to_owned() };
    [
        row.key.short(),
        name(&row.source),
        row.kind.unwrap_or_default().to_owned(),
        if is_layer { row.needed_by.len().to_string() } else { String::new() },
        size::show(row.size_on_disk),
        row.entries.map(|n| n.to_string()).unwrap_or_default(),
        row.last_used.clone().unwrap_or_default(),
        state,
    ]
}

impl RmArgs {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let cache = context.cache()?;
        let keys = resolve(&cache, &self.keys)?;
        let mut refused = None;
        for (key, removal) in cache.rm(&keys)? {
            let (kind, why) = match removal {
                Removal::Removed { bytes } => {
                    context.printer.note(format!("removed {}, {} freed", key.short(), size::show(bytes)));
                    continue;
                }
                Removal::InUse => (Kind::Cache, "is in use: unmount it first".to_owned()),
                Removal::Needed { by } => (Kind::Cache, format!("is needed by {by} other entries")),
                Removal::Absent => (Kind::NotFound, "is not there any more".to_owned()),
            };
            let error = CommandError::new(kind, format!("cache entry {} {why}", key.short()));
            if let Some(earlier) = refused.replace(error) {
                context.printer.error(&earlier);
            }
        }
        refused.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

impl PruneArgs {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let pruned = context.cache()?.prune(self.max_size.unwrap_or(context.global.cache_limit))?;
        if self.json {
            let removed: Vec<Row> = pruned.removed.iter().map(Row::from).collect();
            let answer =
                serde_json::json!({ "removed": removed, "freed": pruned.freed, "kept": pruned.kept });
            context.printer.json(&answer)?;
        } else {
            let (count, freed, kept) =
                (pruned.removed.len(), size::show(pruned.freed), size::show(pruned.kept));
            let entries = if count == 1 { "entry" } else { "entries" };
            context.printer.note(format!("removed {count} {entries}, {freed} freed, {kept} kept"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl VerifyArgs {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let cache = context.cache()?;
        let keys = if self.keys.is_empty() {
            let complete = |info: &EntryInfo| matches!(info.state, State::Complete | State::Damaged(_));
            cache.ls()?.iter().filter(|info| complete(info)).map(|info| info.key).collect()
        } else {
            resolve(&cache, &self.keys)?
        };
        let results = cache.verify(&keys)?;
        let damaged = results.iter().filter(|result| result.damage.is_some()).count();
        if self.json {
            let rows: Vec<_> = results
                .iter()
                .map(|result| {
                    let damage = result.damage.as_ref().map(ToString::to_string);
                    serde_json::json!({ "key": result.key, "sound": damage.is_none(), "damage": damage })
                })
                .collect();
            context.printer.json(&rows)?;
        } else {
            for result in &results {
                let verdict = match &result.damage {
                    None => "sound".to_owned(),
                    Some(damage) => format!("damaged and removed: {damage}"),
                };
                context.printer.line(format!("{}  {verdict}", result.key.short()))?;
            }
        }
        match damaged {
            0 => Ok(ExitCode::SUCCESS),
            1 => Err(CommandError::new(Kind::Negative, "1 entry was damaged")),
            n => Err(CommandError::new(Kind::Negative, format!("{n} entries were damaged"))),
        }
    }
}

impl DirArgs {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let dir = Cache::locate(context.cache_dir())?;
        if self.json {
            context.printer.json(&text::Name(dir.as_os_str()))?;
        } else {
            context.printer.path(&dir)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn resolve(cache: &Cache, prefixes: &[String]) -> Result<Vec<Key>, CommandError> {
    Ok(prefixes.iter().map(|prefix| cache.resolve(prefix)).collect::<Result<_, _>>()?)
}
