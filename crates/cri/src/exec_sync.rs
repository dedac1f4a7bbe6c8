//! ExecSync: a command in a container and its output, for probes and hooks. Past its timeout it is killed with all of
//! its children, and the call fails with DeadlineExceeded.

use std::time::Duration;

use berth_cri_proto::MAX_MESSAGE_BYTES;
use berth_cri_proto::v1::{ExecSyncRequest, ExecSyncResponse};
use berth_pod::ExecOutput;

use crate::call::record_container;
use crate::convert::{Refusal, check};
use crate::{Edge, Failure};

/// Both streams; the rest of a message is for its framing.
const MAX_OUTPUT_BYTES: usize = MAX_MESSAGE_BYTES - 1024;

pub(crate) async fn handle(edge: &Edge, request: ExecSyncRequest) -> Result<ExecSyncResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    let command = check::words("cmd", request.cmd)?;
    if command.is_empty() {
        return Err(Refusal::missing("cmd").into());
    }
    let timeout = match check::seconds("timeout", request.timeout)? {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    };
    Ok(answer(edge.pods.exec_sync(&id, command, timeout).await?))
}

fn answer(mut output: ExecOutput) -> ExecSyncResponse {
    output.stdout.truncate(MAX_OUTPUT_BYTES);
    output.stderr.truncate(MAX_OUTPUT_BYTES - output.stdout.len());
    ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_answer_fits_a_message() {
        let check = |stdout: usize, stderr: usize| {
            let answer =
                answer(ExecOutput { stdout: vec![b'o'; stdout], stderr: vec![b'e'; stderr], exit_code: -1 });
            assert!(answer.encoded_len() <= MAX_MESSAGE_BYTES);
            (answer.stdout.len(), answer.stderr.len())
        };
        assert_eq!(check(3, 4), (3, 4));
        assert_eq!(check(MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES), (MAX_OUTPUT_BYTES, 0));
        assert_eq!(check(1 << 20, MAX_MESSAGE_BYTES), (1 << 20, MAX_OUTPUT_BYTES - (1 << 20)));
    }
}
