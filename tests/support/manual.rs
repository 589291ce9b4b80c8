//! The manual pages, made of the help.

use std::collections::BTreeMap;

use clap_mangen::Man;

const ENVIRONMENT: &str = r#".SH ENVIRONMENT
.TP
.B DOCKER_HOST\fR, \fBDOCKER_CONTEXT\fR, \fBDOCKER_CONFIG
Which daemon is asked, as docker(1) has it.
.TP
.B IMAGEFS_CACHE_DIR\fR, \fBIMAGEFS_CACHE_LIMIT
As \-\-cache\-dir and \-\-cache\-limit, which go before them.
.TP
.B LS_COLORS\fR, \fBNO_COLOR
Colours of names on a terminal, and that there are to be none.
.TP
.B RUST_LOG
What is logged, as in imagefs=debug.
.TP
.B XDG_CACHE_HOME\fR, \fBXDG_RUNTIME_DIR
Where the cache is, and where live mounts are entered.
"#;

const FILES: &str = r#".SH FILES
.TP
.I ~/.cache/imagefs
The cache, unless XDG_CACHE_HOME or an option says otherwise. All of it can be removed: it is made again.
.TP
.I $XDG_RUNTIME_DIR/imagefs
Records and logs of live mounts; without XDG_RUNTIME_DIR, /run/imagefs for root and /tmp/imagefs\-UID for others.
"#;

const EXIT_STATUS: &str = r#".SH EXIT STATUS
0 on success. 1 if the answer to a question is no, as of diff, grep and cache verify. 2 to 8 for what went wrong: see imagefs(1).
"#;

/// The manual page of a command and of each of its verbs, by the file's name.
pub fn pages(command: &clap::Command) -> BTreeMap<String, String> {
    let mut pages: BTreeMap<_, _> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).flat_map(pages).collect();
    let name = command.get_display_name().unwrap_or("imagefs").to_owned();
    pages.insert(format!("{name}.1"), page(command, &name));
    pages
}

fn page(command: &clap::Command, name: &str) -> String {
    let version = format!("imagefs {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name).source(version).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page).unwrap();
    }
    let mut page = String::from_utf8(page).unwrap();
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split("Options of all commands").next().unwrap();
    // Examples come last but one, where they are looked for.
    let (examples, others): (Vec<_>, Vec<_>) =
        sections(help).into_iter().partition(|(heading, _)| heading == "EXAMPLES");
    let told_whole = others.iter().any(|(heading, _)| heading == "EXIT STATUS");
    page += &others.iter().map(section).collect::<String>();
    page += ENVIRONMENT;
    page += FILES;
    if !told_whole {
        page += EXIT_STATUS;
    }
    page += &examples.iter().map(section).collect::<String>();
    page += ".SH SEE ALSO\n";
    page += match name {
        "imagefs" => "imagefs\\-mount(1), imagefs\\-cache(1), docker(1), podman(1), fuse(8), mount(8)\n",
        _ => "imagefs(1), imagefs\\-mount(1), imagefs\\-cache(1)\n",
    };
    page.replace('…', "...").replace('→', "\\->").replace('–', "\\(en").replace('—', "\\(em")
}

/// Takes a help text apart: a line that ends in a colon is the heading of what is indented below it.
fn sections(help: &str) -> Vec<(String, Vec<&str>)> {
    let mut sections: Vec<(String, Vec<&str>)> = Vec::new();
    let lines: Vec<&str> = help.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let indented = |line: &&str| line.starts_with("  ");
        if !line.starts_with(' ') && line.ends_with(':') && lines.get(at + 1).is_some_and(indented) {
            // What follows on a comma is an aside.
            let heading = line.trim_end_matches(':').split(',').next().unwrap().to_uppercase();
            sections.push((heading, Vec::new()));
            continue;
        }
        let ends = !line.is_empty() && !line.starts_with(' ');
        match sections.last_mut() {
            Some((heading, lines)) if heading == "NOTES" || !ends => lines.push(line),
            _ => sections.push(("NOTES".to_owned(), vec![line])),
        }
    }
    sections
}

/// A section, line by line as it stands.
fn section((heading, lines): &(String, Vec<&str>)) -> String {
    let escape = |line: &&str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        format!("\\&{line}\n")
    };
    let text: String = lines.join("\n").trim_matches('\n').lines().map(|line| escape(&line)).collect();
    format!(".SH {heading}\n.nf\n{text}.fi\n")
}
