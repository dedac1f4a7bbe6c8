//! From rows of inodes to a table, purely. In each column, the processes of a pod that share a namespace bear the same
//! letter; the host's namespaces are marked as such; a namespace that a process has to itself bears no mark.

use super::kernel::{KINDS, Namespaces};
use crate::table::align;

/// What the marks mean.
pub(super) const LEGEND: &str =
    "Same letter: shared within the pod. host: the machine's own. No mark: the process's own.";

/// One process of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) namespaces: Namespaces,
}

/// One line for the heads, one for each row; columns aligned by spaces, none at the end of a line.
pub(super) fn render(rows: &[Row], host: &Namespaces) -> String {
    let mut cells = vec![["process", "pid"].into_iter().chain(KINDS).map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let marked = (0..KINDS.len()).map(|kind| cell(rows, host, row, kind));
        cells.push([row.name.clone(), row.pid.to_string()].into_iter().chain(marked).collect());
    }
    align(&cells)
}

fn cell(rows: &[Row], host: &Namespaces, row: &Row, kind: usize) -> String {
    match row.namespaces[kind] {
        None => "?".into(),
        Some(inode) if host[kind] == Some(inode) => format!("{inode} host"),
        Some(inode) => match letter(rows, kind, inode) {
            Some(letter) => format!("{inode} {letter}"),
            None => inode.to_string(),
        },
    }
}

/// Letters are given in the order in which shared namespaces appear in the column.
fn letter(rows: &[Row], kind: usize, inode: u64) -> Option<char> {
    let column: Vec<_> = rows.iter().filter_map(|row| row.namespaces[kind]).collect();
    let shared = |inode: u64| column.iter().filter(|other| **other == inode).count() > 1;
    let mut groups = Vec::new();
    for other in &column {
        if shared(*other) && !groups.contains(other) {
            groups.push(*other);
        }
    }
    let index = groups.iter().position(|group| *group == inode)?;
    ('A'..='Z').cycle().nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Namespaces = [Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), Some(8)];

    fn row(name: &str, pid: u32, inodes: [u64; 8]) -> Row {
        Row { name: name.into(), pid, namespaces: inodes.map(Some) }
    }

    #[test]
    fn a_pod_shares_net_ipc_and_uts() {
        let rows = [
            row("pause", 100, [10, 11, 12, 4, 5, 13, 14, 8]),
            row("web", 101, [10, 11, 12, 4, 20, 21, 22, 8]),
            row("client", 102, [10, 11, 12, 4, 30, 31, 32, 8]),
        ];
        let expected = "\
process  pid  net   ipc   uts   user    pid     mnt  cgroup  time
pause    100  10 A  11 A  12 A  4 host  5 host  13   14      8 host
web      101  10 A  11 A  12 A  4 host  20      21   22      8 host
client   102  10 A  11 A  12 A  4 host  30      31   32      8 host
";
        assert_eq!(render(&rows, &HOST), expected);
    }

    #[test]
    fn groups_in_one_column_bear_different_letters() {
        let rows = [
            row("pause", 1, [1, 50, 51, 52, 60, 71, 72, 73]),
            row("a", 2, [1, 50, 51, 52, 61, 74, 75, 76]),
            row("b", 3, [1, 53, 51, 52, 61, 77, 78, 79]),
            row("c", 4, [1, 53, 51, 52, 60, 80, 81, 82]),
        ];
        let marks = |kind| rows.iter().map(|r| cell(&rows, &HOST, r, kind)).collect::<Vec<_>>().join(" | ");
        assert_eq!(marks(0), "1 host | 1 host | 1 host | 1 host");
        assert_eq!(marks(1), "50 A | 50 A | 53 B | 53 B");
        assert_eq!(marks(4), "60 A | 61 B | 61 B | 60 A");
        assert_eq!(marks(5), "71 | 74 | 77 | 80");
    }

    #[test]
    fn a_process_that_is_gone_is_shown_as_such() {
        let gone = Row { name: "web".into(), pid: 7, namespaces: [None; 8] };
        assert!(render(&[gone], &HOST).ends_with("web      7    ?    ?    ?    ?     ?    ?    ?       ?\n"));
    }
}
