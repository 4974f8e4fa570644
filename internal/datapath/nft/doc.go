// Package nft owns the nftables tables of a node: `inet terway`, which checks the sources of pods'
// packets and sets each packet's mark to its ENI's, and `ip terway-nat` and `ip6 terway-nat`, which
// masquerade packets that leave with the node's address.
//
// Their contents are data (Ruleset, Elements), which Tables writes into the kernel and compares
// with it. The package must not change any other table. Tables.Do runs a function of others, who
// change their rules in other tables, on its socket.
package nft
