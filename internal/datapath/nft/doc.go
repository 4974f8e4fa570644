// Package nft is the nftables tables of a node: `inet terway`, which checks the sources of pods'
// packets and gives each packet the mark of its ENI, and `ip terway-nat` and `ip6 terway-nat`,
// which let packets leave with the node's address.
//
// What is to be in them is data (Ruleset, Elements), which Tables puts into the kernel and
// compares with what is there. The package owns these tables and must never change another.
// Tables.Do lends its socket to those who change what is theirs in other tables.
package nft
