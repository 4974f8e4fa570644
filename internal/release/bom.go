package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"net/url"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"terway.dev/terway/internal/product"
)

// bom lists what the release consists of, in CycloneDX: images, their packages of Debian, programs, and the Go modules
// that are compiled into them.
func (o *options) bom(img image) ([]byte, error) {
	doc := cdx.NewBOM()
	root := cdx.Component{BOMRef: "terway", Type: cdx.ComponentTypeApplication, Name: "terway", Version: o.version.Version}
	doc.Metadata = &cdx.Metadata{Component: &root}
	seen := map[string]bool{}
	var components []cdx.Component
	var dependencies []cdx.Dependency
	add := func(c cdx.Component) string {
		if !seen[c.BOMRef] {
			seen[c.BOMRef] = true
			components = append(components, c)
		}
		return c.BOMRef
	}
	needs := func(ref string, on []string) {
		slices.Sort(on)
		on = slices.Compact(on)
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &on})
	}
	var all []string
	for _, arch := range product.Architectures {
		image := add(cdx.Component{
			BOMRef: "image-linux-" + arch, Type: cdx.ComponentTypeContainer, Name: "terway", Version: o.version.Version,
			PackageURL: "pkg:oci/terway@" + url.QueryEscape(img.digest.String()) + "?arch=" + arch,
		})
		all = append(all, image)
		var inside []string
		packages, err := product.Packages(arch)
		if err != nil {
			return nil, err
		}
		for _, p := range packages {
			purl := "pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=" + arch + "&distro=" + product.Suite
			inside = append(inside, add(cdx.Component{
				BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: purl, Hashes: sha(p.SHA256),
			}))
		}
		for _, name := range slices.Concat(product.Programs, product.Plugins, []string{"terwayctl"}) {
			ref, modules, err := o.describe(arch, name, add)
			if err != nil {
				return nil, err
			}
			needs(ref, modules)
			if name == "terwayctl" { // the operator's
				all = append(all, ref)
			} else {
				inside = append(inside, ref)
			}
		}
		needs(image, inside)
	}
	needs(root.BOMRef, all)
	doc.Components, doc.Dependencies = &components, &dependencies
	var buf bytes.Buffer
	err := cdx.NewBOMEncoder(&buf, cdx.BOMFileFormatJSON).SetPretty(true).Encode(doc)
	return buf.Bytes(), err
}

// describe adds a program and its modules, as the compiler has noted them in it.
func (o *options) describe(arch, name string, add func(cdx.Component) string) (ref string, modules []string, err error) {
	file := o.program(arch, name)
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", file, err)
	}
	sum, err := digest(file)
	if err != nil {
		return "", nil, err
	}
	module := func(path, version string) string {
		purl := "pkg:golang/" + path + "@" + url.QueryEscape(version)
		return add(cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl})
	}
	modules = []string{module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, module(m.Path, m.Version))
	}
	// Upstream's plugins have the version of their module.
	version := o.version.Version
	if slices.Contains(product.Plugins, name) {
		version = info.Main.Version
		modules = append(modules, module(info.Main.Path, version))
	}
	return add(cdx.Component{
		BOMRef: name + "-linux-" + arch, Type: cdx.ComponentTypeApplication, Name: name, Version: version, Hashes: sha(sum),
	}), modules, nil
}

func sha(sum string) *[]cdx.Hash { return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}} }
