package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// modules are what the datapaths and their tests use, and the devices of a machine with a Debian system, loaded at boot with what they
// need themselves. A name that a kernel has built in, or has not, is passed over: a
// test that needs it says so.
var modules = strings.Fields(`
	veth ipvlan bridge dummy ifb tun
	sch_ingress cls_bpf act_bpf sch_tbf sch_htb sch_fq sch_fq_codel cls_u32 act_mirred
	nf_tables nft_ct nft_nat nft_chain_nat nft_masq nft_redir nft_reject_inet nft_fib_inet
	nft_counter nft_limit nft_log nft_numgen nft_hash nft_objref nf_conntrack_netlink
	nft_compat xt_comment xt_conntrack xt_tcpudp ipt_REJECT ip6t_REJECT iptable_filter ip6table_filter
	ip_vs ip_vs_rr
	virtio_net`)

const (
	moduleDir = "modules"
	// loadOrder lists the modules' files in the order in which they can be loaded.
	loadOrder = moduleDir + "/load.order"
)

// packModules writes the modules to a cpio archive, uncompressed and without debugging
// sections. Stripping takes the signature too, whose check costs 70 ms a module.
func packModules(ctx context.Context, root, version, archive string) error {
	if _, err := command(ctx, "", "depmod", "-b", root, version); err != nil {
		return err
	}
	dir := filepath.Join(root, "lib", "modules", version)
	needs, err := readDeps(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	var order []string
	seen := map[string]bool{}
	for _, name := range modules {
		for _, file := range needs[name] {
			if !seen[file] {
				seen[file] = true
				order = append(order, file)
			}
		}
	}
	a, err := createArchive(archive)
	if err != nil {
		return err
	}
	a.dir(moduleDir)
	var names []string
	for _, file := range order {
		plain := filepath.Join(root, filepath.Base(strings.TrimSuffix(file, ".xz")))
		if err := unpackModule(ctx, filepath.Join(dir, file), plain); err != nil {
			return errors.Join(err, a.close())
		}
		names = append(names, filepath.Base(plain))
		a.copy(moduleDir+"/"+filepath.Base(plain), plain, 0o644)
	}
	a.file(loadOrder, []byte(strings.Join(names, "\n")+"\n"), 0o644)
	return a.close()
}

func unpackModule(ctx context.Context, file, plain string) error {
	if strings.HasSuffix(file, ".xz") {
		out, err := command(ctx, "", "xz", "-dc", file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(plain, []byte(out), 0o644); err != nil {
			return err
		}
	} else if err := os.Rename(file, plain); err != nil {
		return err
	}
	_, err := command(ctx, "", "llvm-strip", "--strip-debug", plain)
	return err
}

// readDeps reads modules.dep: for each module its files, those it needs first.
func readDeps(path string) (map[string][]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("depmod left no %s", path)
	}
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{}
	for _, line := range strings.Split(string(data), "\n") {
		file, deps, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		// Listed such that the last one comes first.
		words := strings.Fields(deps)
		var files []string
		for i := len(words) - 1; i >= 0; i-- {
			files = append(files, words[i])
		}
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		needs[strings.ReplaceAll(name, "-", "_")] = append(files, file)
	}
	return needs, nil
}
