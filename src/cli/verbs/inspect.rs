use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::CommandError;
use crate::cli::output::escape::name;
use crate::cli::output::size;

/// Show what a source is, and its mounts
///
/// Identity, platform, size, the mount table, and how an image is run. Nothing is read into the cache for it.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    source: Value,
    /// Bytes of all files that are known, or else those that the daemon reckons.
    size: Option<u64>,
    /// What is run by default.
    command: Vec<String>,
}

impl InspectArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        self.read.read(context, |reading| {
            let source = reading.gateway.source();
            let inspected =
                Inspected { source: source.describe(), size: source.size(), command: source.command() };
            if self.json {
                return context.printer.json(&inspected);
            }
            for (label, value) in told(reading, &inspected) {
                context.printer.line(format!("{label:>11}  {value}").trim_end())?;
            }
            let rows: Vec<[String; 6]> = source.mounts.iter().enumerate().map(row).collect();
            context.printer.line("")?;
            context.printer.table(["MOUNT", "NAME", "DESTINATION", "TYPE", "ACCESS", "STATE"], &rows)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row((index, mount): (usize, &crate::source::Mount)) -> [String; 6] {
    let kind = match &mount.origin {
        Some(origin) => format!("{} {origin}", mount.kind),
        None => mount.kind.clone(),
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    [
        index.to_string(),
        mount.name.clone(),
        mount.destination.clone(),
        kind,
        access.to_owned(),
        mount.state().to_string(),
    ]
}

fn told(reading: &Reading, inspected: &Inspected) -> Vec<(&'static str, String)> {
    let source = reading.gateway.source();
    let mut told = vec![
        ("Source", name(&source.spelled)),
        ("Kind", source.kind.name().to_owned()),
        ("Identity", source.identity.clone()),
    ];
    if let Some(platform) = &source.platform {
        told.push(("Platform", platform.to_string()));
    }
    told.extend(source.details.names.iter().map(|name| ("Name", name.clone())));
    told.extend(source.details.created.iter().map(|created| ("Created", created.clone())));
    if let Some(container) = &source.details.container {
        told.push(("State", container.state.clone()));
        told.push(("Image", container.image.to_string()));
    }
    told.extend(inspected.size.map(|bytes| ("Size", size::show(bytes))));
    if let Some(config) = &source.details.config {
        told.extend(config.env.iter().map(|variable| ("Environment", variable.clone())));
        for (label, words) in [("Entrypoint", &config.entrypoint), ("Arguments", &config.cmd)] {
            if !words.is_empty() {
                told.push((label, quoted(words)));
            }
        }
        for (label, value) in [("Directory", &config.working_dir), ("User", &config.user)] {
            if !value.is_empty() {
                told.push((label, value.clone()));
            }
        }
        told.extend(config.volumes.iter().map(|volume| ("Volume", volume.clone())));
    }
    told.push(("Runs", quoted(&inspected.command)));
    told
}

/// Words as JSON spells them, which shows where each ends.
fn quoted(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}
