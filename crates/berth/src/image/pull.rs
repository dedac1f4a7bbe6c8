//! `berth image pull`: an image from its registry, through the running agent, with the progress on standard error: one
//! line that changes on a terminal, a line now and then elsewhere. Standard output gets the image's id, for scripts. A
//! pull goes on in the agent when this command is interrupted; the same command joins it again.

use super::bytes_for_people;
use anyhow::{Context, Result, bail};
use berth_admin_proto::v1::admin_client::AdminClient;
use berth_admin_proto::v1::pull_image_response::Step;
use berth_admin_proto::v1::{Credentials, PullImageRequest, PullProgress};
use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// No password is longer, and no registry's token.
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;

/// How often a line is written where lines stay.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Takes the cursor to the line's beginning and clears the line. Source: ECMA-48, EL.
const CLEAR_LINE: &str = "\r\x1b[K";

/// What to pull, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Name of the image, such as registry.example/app:v1
    reference: String,
    /// User at the registry; without one, the settings' credentials for it, if any
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    user: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,
}

/// The progress as it is shown.
struct Display<W> {
    output: W,
    style: Style,
}

enum Style {
    /// One line, written over and over.
    Terminal,
    /// The next line is not written before then.
    Plain { due: Instant },
}

/// Pulls the image, or joins who is pulling it.
pub(super) async fn run(channel: Channel, args: PullArgs) -> Result<()> {
    let PullArgs { reference, user, .. } = args;
    let credentials = match user {
        None => None,
        Some(username) => {
            let password = tokio::task::spawn_blocking(|| password_from(io::stdin().lock()));
            Some(Credentials { username, password: password.await?? })
        }
    };
    let output = io::stderr();
    let style = if output.is_terminal() {
        Style::Terminal
    } else {
        Style::Plain { due: Instant::now() + PLAIN_EVERY }
    };
    let mut display = Display { output, style };
    let attempt = format!("pull {reference}");
    let pulled = pull(channel, PullImageRequest { reference, credentials }, &mut display).await;
    display.clear();
    writeln!(io::stdout(), "{}", pulled.context(attempt)?)?;
    Ok(())
}

async fn pull(
    channel: Channel,
    request: PullImageRequest,
    display: &mut Display<impl Write>,
) -> Result<String> {
    let mut steps = AdminClient::new(channel).pull_image(request).await?.into_inner();
    while let Some(message) = steps.message().await? {
        match message.step {
            Some(Step::Progress(progress)) => display.show(&progress, Instant::now()),
            Some(Step::Id(id)) => return Ok(id),
            None => {}
        }
    }
    bail!("the agent's answer ended without an image")
}

/// One line end is the shell's, not the password's.
fn password_from(input: impl Read) -> Result<String> {
    let mut text = String::new();
    input.take(MAX_PASSWORD_BYTES).read_to_string(&mut text).context("read password")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.is_empty() {
        bail!("read password: standard input is empty");
    }
    Ok(password.to_owned())
}

impl<W: Write> Display<W> {
    /// A pull is not given up because nobody can see how far it is, so failures to write are passed over.
    fn show(&mut self, progress: &PullProgress, now: Instant) {
        let line = line(progress);
        match &mut self.style {
            Style::Terminal => {
                let _ = write!(self.output, "{CLEAR_LINE}{line}").and_then(|()| self.output.flush());
            }
            Style::Plain { due } if now >= *due => {
                *due = now + PLAIN_EVERY;
                let _ = writeln!(self.output, "{line}");
            }
            Style::Plain { .. } => {}
        }
    }

    /// Leaves the line to what comes next.
    fn clear(&mut self) {
        if let Style::Terminal = self.style {
            let _ = write!(self.output, "{CLEAR_LINE}").and_then(|()| self.output.flush());
        }
    }
}

fn line(progress: &PullProgress) -> String {
    let PullProgress { layers_done, layers, bytes_done, bytes } = *progress;
    if layers == 0 {
        return "reading the manifest".to_owned();
    }
    let (done, all) = (bytes_for_people(bytes_done), bytes_for_people(bytes));
    format!("{layers_done} of {layers} layers, {done} of {all}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(layers_done: u64, layers: u64, bytes_done: u64, bytes: u64) -> PullProgress {
        PullProgress { layers_done, layers, bytes_done, bytes }
    }

    #[test]
    fn progress_is_layers_and_bytes_once_they_are_known() {
        let check = |progress, text: &str| assert_eq!(line(&progress), text);
        check(progress(0, 0, 0, 0), "reading the manifest");
        check(progress(1, 3, 1536, 5 << 20), "1 of 3 layers, 1.5 KiB of 5.0 MiB");
        check(progress(3, 3, 0, 0), "3 of 3 layers, 0 B of 0 B");
    }

    #[test]
    fn a_terminal_has_one_line_that_goes_in_the_end() {
        let mut display = Display { output: Vec::new(), style: Style::Terminal };
        display.show(&progress(0, 2, 0, 2048), Instant::now());
        display.show(&progress(1, 2, 1024, 2048), Instant::now());
        display.clear();
        let expected =
            "\r\x1b[K0 of 2 layers, 0 B of 2.0 KiB\r\x1b[K1 of 2 layers, 1.0 KiB of 2.0 KiB\r\x1b[K";
        assert_eq!(String::from_utf8(display.output).unwrap(), expected);
    }

    #[test]
    fn lines_that_stay_are_few() {
        let begun = Instant::now();
        let mut display = Display { output: Vec::new(), style: Style::Plain { due: begun + PLAIN_EVERY } };
        for second in 0..=11 {
            display.show(&progress(0, 1, second, 100), begun + Duration::from_secs(second));
        }
        display.clear();
        let expected = "0 of 1 layers, 5 B of 100 B\n0 of 1 layers, 10 B of 100 B\n";
        assert_eq!(String::from_utf8(display.output).unwrap(), expected);
    }

    #[test]
    fn a_password_is_one_line_end_shorter_than_the_input() {
        let check = |input: &str, password: Option<&str>| {
            assert_eq!(password_from(input.as_bytes()).ok().as_deref(), password, "{input:?}");
        };
        check("s3cret", Some("s3cret"));
        check("s3cret\n", Some("s3cret"));
        check(" two words \r\n", Some(" two words "));
        check("line\n\n", Some("line\n"));
        check("\n", None);
        check("", None);
    }
}
