use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::context::Context;
use crate::cli::output::error::{CommandError, Kind};

const EXAMPLES: &str = "\
Examples:
  source <(imagefs completions bash)              in ~/.bashrc
  source <(imagefs completions zsh)               in ~/.zshrc, after compinit
  imagefs completions fish | source               in config.fish

Completed are commands, options, the daemon's images and containers, mountpoints,
cache entries, and paths inside what is in the cache. A daemon that does not
answer within two seconds is not waited for.";

const BASH: &str = r#"_imagefs() {
    local IFS=$' \t\n' rest=${COMP_LINE:0:COMP_POINT} piece words=() i current prefix line
    # Bash takes words apart at colons and equals signs: what has no blank between is one word here.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        piece=${COMP_WORDS[i]}
        if ((i == 0)) || [[ $rest == [[:blank:]]* ]]; then
            words+=("$piece")
        else
            words[-1]+=$piece
        fi
        while [[ $rest == [[:blank:]]* ]]; do rest=${rest:1}; done
        rest=${rest#"$piece"}
    done
    current=${words[-1]}
    prefix=
    [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && prefix=${current%"${current##*:}"}
    [[ $current == --*=* ]] && prefix=${current%%=*}=
    COMPREPLY=()
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        [[ $line == *[/:=] ]] || line+=' '
        COMPREPLY+=("${line#"$prefix"}")
    done < <("${COMP_WORDS[0]}" complete $((${#words[@]} - 1)) -- "${words[@]}" 2>/dev/null)
}
complete -o nospace -o nosort -F _imagefs imagefs
"#;

const ZSH: &str = r#"#compdef imagefs
_imagefs() {
    local line value
    local -a ended open ended_shown open_shown
    for line in ${(f)"$(${words[1]} complete $((CURRENT - 1)) -- "${(@Q)words}" 2>/dev/null)"}; do
        value=${line%%$'\t'*}
        if [[ $value == *[/:=] ]]; then
            open+=("$value") open_shown+=("${line/$'\t'/  -- }")
        else
            ended+=("$value") ended_shown+=("${line/$'\t'/  -- }")
        fi
    done
    (($#open)) && compadd -l -V open -S '' -d open_shown -a open
    (($#ended)) && compadd -l -V ended -d ended_shown -a ended
    (($#open + $#ended))
}
if [[ ${funcstack[1]} == _imagefs ]]; then
    _imagefs "$@"
else
    compdef _imagefs imagefs
fi
"#;

const FISH: &str = r#"function __imagefs_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    $words[1] complete (count $words) -- $words (commandline --cut-at-cursor --current-token) 2>/dev/null
end
complete --keep-order --no-files --command imagefs --arguments '(__imagefs_complete)'
"#;

/// Print a script with which a shell completes imagefs
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl CompletionsArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let script = match self.shell {
            Shell::Bash => BASH,
            Shell::Zsh => ZSH,
            Shell::Fish => FISH,
        };
        let mut output = context.printer.output();
        output.text(script)?;
        output.finish()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print what a word of a command line may become: for the scripts
#[derive(Debug, Args)]
pub struct CompleteArgs {
    /// Which word, from 0
    index: usize,
    /// The line
    #[arg(last = true)]
    words: Vec<OsString>,
}

impl CompleteArgs {
    /// Prints one candidate a line, and what it is behind a tab.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let here = std::env::current_dir().ok();
        let mut command = (context.command)();
        let found =
            clap_complete::engine::complete(&mut command, self.words.clone(), self.index, here.as_deref());
        let found =
            found.map_err(|e| CommandError::new(Kind::Failed, "cannot complete the line").caused_by(e))?;
        let mut output = context.printer.output();
        for candidate in found.iter().filter(|candidate| !candidate.is_hide_set()) {
            let value = candidate.get_value();
            // No shell is handed a name that would break its lines.
            if value.to_str().is_none_or(|text| text.contains(char::is_control)) {
                continue;
            }
            output.bytes(value.as_encoded_bytes())?;
            if let Some(help) = candidate.get_help() {
                let help = help.to_string();
                output.text(&format!("\t{}", help.lines().next().unwrap_or_default()))?;
            }
            output.text("\n")?;
        }
        output.finish()?;
        Ok(ExitCode::SUCCESS)
    }
}
