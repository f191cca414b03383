"""A value that many calls use: stored once, mapped by every slot, gone with its last Ref."""

import betterbox


def share_of(table: list[float], i: int) -> float:
    return table[i] / sum(table)


if __name__ == "__main__":
    with betterbox.LocalCluster(slots=2):
        with betterbox.put([float(i) for i in range(50_000)]) as table:
            first = betterbox.submit(share_of, table, 1)
            print(first.result(), betterbox.map(share_of, [table] * 3, [0, 10, 49_999]).result())
            print(table, len(table.get()))
