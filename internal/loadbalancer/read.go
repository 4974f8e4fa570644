package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ProductOf returns the product that a Service wants from us; ok is false if the Service is not ours.
func ProductOf(svc *corev1.Service, s Settings) (p Product, ok bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return "", false
	}
	class := ""
	if svc.Spec.LoadBalancerClass != nil {
		class = *svc.Spec.LoadBalancerClass
	}
	switch class {
	case ClassCLB:
		return CLB, true
	case ClassNLB:
		return NLB, true
	}
	p, ok = s.Classes[class]
	return p, ok
}

// reader collects what is wrong while it reads a Service.
type reader struct {
	svc  *corev1.Service
	errs []error
}

// get returns an annotation and the key that it has; an empty one is absent.
func (r *reader) get(name string) (key, value string) {
	for _, prefix := range []string{Prefix, PrefixFormer} {
		if v := r.svc.Annotations[prefix+name]; v != "" {
			return prefix + name, v
		}
	}
	return "", ""
}

func (r *reader) wrong(field, value, want string) {
	r.errs = append(r.errs, fmt.Errorf("%s: %q: %s", field, value, want))
}

// Read returns the load balancer that a Service wants. The error names each wrong field or annotation,
// its value, and what would be right. What is wrong stops nothing else: the load balancer is what the
// rest says, without the wrong parameters, which stay as they are. It is nil only if the Service is not ours.
func Read(svc *corev1.Service, s Settings) (*LoadBalancer, error) {
	product, ok := ProductOf(svc, s)
	if !ok {
		return nil, fmt.Errorf("the Service %s/%s is not for this controller", svc.Namespace, svc.Name)
	}
	r := &reader{svc: svc}
	w := &LoadBalancer{Product: product, OwnListeners: true, DefaultWeight: 100, PodBackends: s.PodBackends,
		Attributes: map[string]string{}}
	r.listeners(w)
	r.unknown()
	r.byTable(w)
	r.byCode(w, s)
	r.affinity(w)
	for _, l := range w.Listeners {
		r.sticky(l)
		if w.Product == NLB && l.Protocol == UDP {
			l.Group["HealthCheckConfig.HealthCheckType"] = "UDP"
		}
		withoutUnused(w.Product, l)
	}
	r.sources(w)
	if ip := svc.Spec.LoadBalancerIP; ip != "" {
		want := "an NLB's addresses are in the vSwitches of its zones"
		if product == CLB {
			want = "for an intranet address use the annotation " + Prefix + "ip"
		}
		r.wrong("spec.loadBalancerIP", ip, "want none: "+want)
	}
	if f := svc.Spec.IPFamilies; len(f) > 0 && !slices.Contains(f, corev1.IPv4Protocol) {
		r.wrong("spec.ipFamilies", string(f[0]), "want IPv4 among them: load balancers have only IPv4 backends here")
	}
	return w, errors.Join(r.errs...)
}

// withoutUnused removes the parameters that others make meaningless: the API may answer without them,
// so that they would be different for ever.
func withoutUnused(p Product, l Listener) {
	of, health := l.Attributes, ""
	if p == NLB {
		of, health = l.Group, "HealthCheckConfig."
	}
	unused := func(ok func(string) bool) { maps.DeleteFunc(of, func(k, _ string) bool { return ok(k) }) }
	if of["ConnectionDrain"] == "off" || of["ConnectionDrainEnabled"] == "false" {
		unused(func(k string) bool { return k == "ConnectionDrainTimeout" })
	}
	isSwitch := func(k string) bool {
		return k == "HealthCheck" || k == "HealthCheckSwitch" || k == health+"HealthCheckEnabled"
	}
	for k, v := range of {
		if isSwitch(k) && (v == "off" || v == "false") {
			unused(func(k string) bool {
				return !isSwitch(k) && (strings.Contains(k, "HealthCheck") || strings.HasSuffix(k, "healthyThreshold") || strings.HasSuffix(k, "HealthyThreshold"))
			})
		}
	}
	if l.Protocol == TCP && !strings.EqualFold(of[health+"HealthCheckType"], "http") {
		unused(func(k string) bool {
			switch strings.TrimPrefix(k, health) {
			case "HealthCheckDomain", "HealthCheckHttpCode", "HealthCheckHttpVersion", "HealthCheckMethod", "HttpCheckMethod", "HealthCheckURI", "HealthCheckUrl":
				return true
			}
			return false
		})
	}
	if of["StickySession"] == "on" {
		other := "Cookie"
		if of["StickySessionType"] == "server" {
			other = "CookieTimeout"
		}
		delete(of, other)
	} else {
		unused(func(k string) bool { return k == "StickySessionType" || strings.HasPrefix(k, "Cookie") })
	}
}

// listeners makes a listener for each port.
func (r *reader) listeners(w *LoadBalancer) {
	key, value := r.get("protocol-port")
	before := len(r.errs)
	protocols := map[int32]Protocol{}
	for port, protocol := range r.pairs(key, value, `"PROTOCOL:PORT,…", such as "http:80"`) {
		protocols[port] = Protocol(strings.ToUpper(protocol))
	}
	groupKey, groupValue := r.get("vgroup-port")
	groups := r.pairs(groupKey, groupValue, `"GROUP:PORT,…", such as "rsp-x:443"`)
	lists := len(r.errs) == before
	for i, p := range r.svc.Spec.Ports {
		field := fmt.Sprintf("spec.ports[%d].protocol", i)
		protocol := Protocol(p.Protocol)
		if protocol == "" {
			protocol = TCP
		}
		if protocol != TCP && protocol != UDP {
			r.wrong(field, string(p.Protocol), "want TCP or UDP")
			continue
		}
		if first := r.svc.Spec.Ports[0].Protocol; (first == corev1.ProtocolUDP) != (protocol == UDP) {
			r.wrong(field, string(p.Protocol), "want the protocol of the other ports: make a Service for each protocol")
			continue
		}
		wrong := len(r.errs)
		if as := protocols[p.Port]; as != "" {
			switch {
			case as == HTTP && w.Product == NLB:
				r.wrong(key, value, noHTTPNLB+": want TCP or UDP")
			case as != TCP && as != UDP && as != HTTP:
				r.wrong(key, value, "want tcp, udp or http; "+noTLS)
			case (as == UDP) != (protocol == UDP):
				r.wrong(key, value, fmt.Sprintf("port %d is a %s port of the Service", p.Port, protocol))
			default:
				protocol = as
			}
		}
		delete(protocols, p.Port)
		l := Listener{Port: p.Port, Protocol: protocol, ServicePort: i, GroupID: groups[p.Port], Attributes: map[string]string{}, Group: map[string]string{}}
		l.Wrong = len(r.errs) > wrong || !lists
		delete(groups, p.Port)
		w.Listeners = append(w.Listeners, l)
	}
	for _, port := range slices.Sorted(maps.Keys(protocols)) {
		r.wrong(key, value, fmt.Sprintf("the Service has no port %d", port))
	}
	for _, port := range slices.Sorted(maps.Keys(groups)) {
		r.wrong(groupKey, groupValue, fmt.Sprintf("the Service has no port %d", port))
	}
	if _, id := r.get("id"); groupValue != "" && id == "" {
		r.wrong(groupKey, groupValue, "want it with the annotation id only")
	}
}

// pairs reads a list of NAME:PORT.
func (r *reader) pairs(key, value, want string) map[int32]string {
	found := map[int32]string{}
	if value == "" {
		return found
	}
	for pair := range strings.SplitSeq(value, ",") {
		name, port, _ := strings.Cut(strings.TrimSpace(pair), ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || name == "" || found[int32(n)] != "" {
			r.wrong(key, value, "want "+want+", each port once")
			return nil
		}
		found[int32(n)] = name
	}
	return found
}

// unknown refuses annotations with a prefix of the table that are not in it.
func (r *reader) unknown() {
	for _, key := range slices.Sorted(maps.Keys(r.svc.Annotations)) {
		name, ok := strings.CutPrefix(key, Prefix)
		if !ok {
			name, ok = strings.CutPrefix(key, PrefixFormer)
		}
		if ok && !slices.ContainsFunc(Annotations, func(a Annotation) bool { return a.Name == name }) {
			r.wrong(key, r.svc.Annotations[key], "there is no such annotation: want one of the table in the documentation")
		}
	}
}

// byTable sets the parameters that the table names.
func (r *reader) byTable(w *LoadBalancer) {
	for i := range Annotations {
		a := &Annotations[i]
		e := a.effect(w.Product)
		key, value := r.get(a.Name)
		set := e.unset
		if value != "" {
			if e.refused != "" {
				r.wrong(key, value, "not for "+string(w.Product)+": "+e.refused)
				continue
			}
			var ok bool
			if set, ok = a.values.check(value); !ok {
				r.wrong(key, value, "want "+a.values.text)
				continue
			}
			set = spelled(w.Product, e.parameter, set)
		}
		if e.kind == OfLoadBalancer && set != "" {
			w.Attributes[e.parameter] = set
		}
		if e.kind != OfListener && e.kind != OfGroup {
			continue
		}
		used := false
		for _, l := range w.Listeners {
			if len(e.protocols) > 0 && !slices.Contains(e.protocols, l.Protocol) {
				continue
			}
			used = true
			to := l.Attributes
			if e.kind == OfGroup {
				to = l.Group
			}
			if set != "" {
				to[e.parameter] = set
			}
			if a.Name == "scheduler" && !schedules(w.Product, l.Protocol, set) {
				r.wrong(key, value, fmt.Sprintf("a %s listener of %s has no such scheduler: want wrr", l.Protocol, w.Product))
			}
		}
		if !used && value != "" && len(w.Listeners) > 0 {
			r.wrong(key, value, fmt.Sprintf("it is for listeners of %v, and the Service has none", e.protocols))
		}
	}
}

// sticky checks that an HTTP listener's cookie is complete.
func (r *reader) sticky(l Listener) {
	if l.Attributes["StickySession"] != "on" {
		return
	}
	need, name := "CookieTimeout", "cookie-timeout"
	switch l.Attributes["StickySessionType"] {
	case "server":
		need, name = "Cookie", "cookie"
	case "":
		need, name = "StickySessionType", "sticky-session-type"
	}
	if l.Attributes[need] == "" {
		r.wrong(Prefix+name, "", "want a value, as sticky-session is on")
	}
}

// schedules reports whether listeners of a protocol have a scheduler.
func schedules(product Product, protocol Protocol, scheduler string) bool {
	switch scheduler {
	case "qch":
		return product == NLB && protocol == UDP
	case "sch", "tch":
		return protocol != HTTP
	}
	return true
}

// spelled returns a value as a product's API spells it.
func spelled(p Product, parameter, v string) string {
	if p == CLB {
		return v
	}
	switch {
	case v == "on":
		return "true"
	case v == "off":
		return "false"
	case v == "wrr", v == "wlc", v == "internet", v == "intranet":
		return strings.ToUpper(v[:1]) + v[1:]
	case strings.HasSuffix(parameter, "HealthCheckType"), strings.HasSuffix(parameter, "HttpCheckMethod"):
		return strings.ToUpper(v)
	}
	return v
}

// byCode does the annotations whose effect is byCode.
func (r *reader) byCode(w *LoadBalancer, s Settings) {
	_, w.ID = r.get("id")
	_, force := r.get("force-override-listeners")
	w.OwnListeners = w.ID == "" || strings.EqualFold(force, "true")
	_, preserve := r.get("preserve-lb-on-delete")
	w.Preserve = preserve != ""
	if _, v := r.get("default-weight"); v != "" {
		if n, err := strconv.Atoi(v); err == nil && n >= 1 && n <= 100 { // byTable has the error
			w.DefaultWeight = n
		}
	}
	if key, v := r.get("additional-resource-tags"); v != "" {
		w.Tags = map[string]string{}
		for pair := range strings.SplitSeq(v, ",") {
			k, value, ok := strings.Cut(pair, "=")
			if !ok || k == "" || w.Tags[k] != "" {
				r.wrong(key, v, `want "KEY=VALUE,…", each key once`)
				w.Tags = nil
				break
			}
			if k == "creator" || strings.HasPrefix(k, "terway.dev/") {
				r.wrong(key, v, "want no key creator or terway.dev/…: by these the load balancer is found")
				continue
			}
			w.Tags[k] = value
		}
	}
	if _, v := r.get("security-group-ids"); v != "" && w.Product == NLB {
		w.SecurityGroups = slices.Compact(slices.Sorted(strings.SplitSeq(v, ",")))
	}
	if v := r.svc.Annotations[AnnotationBackendType]; v != "" {
		if v != "eni" {
			r.wrong(AnnotationBackendType, v, "want eni")
		} else if !s.PodBackends {
			r.wrong(AnnotationBackendType, v, "pods of this cluster have no addresses of the VPC: leave it out")
		}
	}
	var valid bool
	if w.DrainSeconds, valid = drainSeconds(r.svc); !valid {
		r.wrong(AnnotationDrainSeconds, r.svc.Annotations[AnnotationDrainSeconds], fmt.Sprintf("want a number from 0 to %d", longestDrain))
	}
	if w.ID != "" {
		for i := range Annotations {
			a := &Annotations[i]
			if key, v := r.get(a.Name); v != "" && (a.effect(w.Product).kind == OfLoadBalancer || a.ofPlace()) {
				r.wrong(key, v, "the load balancer "+w.ID+" is yours: set it there, and leave the annotation out")
			}
		}
		w.Attributes, w.Tags, w.SecurityGroups = map[string]string{}, nil, nil
		return
	}
	if w.Attributes["LoadBalancerName"] == "" {
		// The name that the existing manager gives, too.
		name := "a" + strings.ReplaceAll(string(r.svc.UID), "-", "")
		w.Attributes["LoadBalancerName"] = name[:min(len(name), 32)]
	}
	if w.Product == CLB {
		r.charge(w.Attributes)
	}
	r.place(w, s)
}

// ofPlace: an annotation that code reads, and that is of the load balancer.
func (a *Annotation) ofPlace() bool {
	return slices.Contains([]string{"additional-resource-tags", "security-group-ids", "zone-maps"}, a.Name)
}

// charge makes what a CLB is paid for consistent: PayByCLCU has no specification and is paid by traffic;
// an intranet address has no traffic that is paid for.
func (r *reader) charge(a map[string]string) {
	spec, specValue := r.get("spec")
	by, byValue := r.get("instance-charge-type")
	if specValue != "" && byValue == "" {
		a["InstanceChargeType"] = "PayBySpec"
	}
	clcu := a["InstanceChargeType"] == "PayByCLCU"
	switch {
	case clcu && specValue != "":
		r.wrong(spec, specValue, "want none with "+by+" PayByCLCU")
		delete(a, "LoadBalancerSpec")
	case !clcu && a["LoadBalancerSpec"] == "" && specValue == "":
		a["LoadBalancerSpec"] = "slb.s1.small"
	}
	charge, chargeValue := r.get("charge-type")
	bandwidth, bandwidthValue := r.get("bandwidth")
	byBandwidth := a["InternetChargeType"] == "paybybandwidth"
	switch {
	case a["AddressType"] == "intranet" && chargeValue+bandwidthValue != "":
		r.wrong(cmp.Or(charge, bandwidth), cmp.Or(chargeValue, bandwidthValue), "want none with address-type intranet")
	case clcu && byBandwidth:
		r.wrong(charge, chargeValue, "want paybytraffic, or instance-charge-type PayBySpec")
	case byBandwidth && bandwidthValue == "":
		r.wrong(Prefix+"bandwidth", "", "want Mbit/s, as charge-type is paybybandwidth")
	case !byBandwidth && bandwidthValue != "":
		r.wrong(bandwidth, bandwidthValue, "want it with charge-type paybybandwidth only")
		delete(a, "Bandwidth")
		return
	default:
		if a["AddressType"] == "intranet" {
			break
		}
		return
	}
	delete(a, "InternetChargeType")
	delete(a, "Bandwidth")
}

// place says in which vSwitches the load balancer is.
func (r *reader) place(w *LoadBalancer, s Settings) {
	if w.Product == CLB {
		if w.Attributes["AddressType"] == "intranet" && w.Attributes["VSwitchId"] == "" {
			if len(s.Zones) == 0 {
				r.wrong(Prefix+"vswitch-id", "", "want the vSwitch of the intranet address, as the cluster's configuration has none")
				return
			}
			w.New.VSwitchID = s.Zones[0].VSwitch
		}
		return
	}
	key, v := r.get("zone-maps")
	if v == "" {
		if w.New.Zones = slices.Clone(s.Zones); len(w.New.Zones) < 2 {
			w.New.Zones = nil
			r.wrong(Prefix+"zone-maps", "", `want "ZONE:VSWITCH,ZONE:VSWITCH", as the cluster's configuration has vSwitches in fewer than two zones`)
		}
		return
	}
	for pair := range strings.SplitSeq(v, ",") {
		zone, vSwitch, ok := strings.Cut(strings.TrimSpace(pair), ":")
		if !ok || zone == "" || vSwitch == "" || strings.Contains(vSwitch, ":") ||
			slices.ContainsFunc(w.Zones, func(z Zone) bool { return z.ID == zone }) {
			r.wrong(key, v, `want "ZONE:VSWITCH,ZONE:VSWITCH", each zone once; own addresses in them are not supported`)
			w.Zones = nil
			return
		}
		w.Zones = append(w.Zones, Zone{zone, vSwitch})
	}
	if len(w.Zones) < 2 {
		w.Zones = nil
		r.wrong(key, v, "want at least two zones")
	}
}

// longestPersistence is the largest PersistenceTimeout, in seconds (CreateLoadBalancerTCPListener).
const longestPersistence = 3600

// affinity applies spec.sessionAffinity: TCP listeners of CLB remember the client, HTTP listeners set a
// cookie, and everything else schedules by the client's address.
func (r *reader) affinity(w *LoadBalancer) {
	if r.svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := r.svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	_, persistence := r.get("persistence-timeout")
	scheduler, value := r.get("scheduler")
	for _, l := range w.Listeners {
		switch {
		case w.Product == CLB && l.Protocol == TCP:
			if persistence != "" {
				continue
			}
			if l.Attributes["PersistenceTimeout"] = strconv.Itoa(int(min(seconds, longestPersistence))); seconds > longestPersistence {
				w.Capped = fmt.Errorf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: \"%d\": a TCP listener of CLB remembers a client for %d s at most, which it does: want at most that, or an NLB, which does not forget", seconds, longestPersistence)
			}
		case l.Protocol == HTTP:
			if l.Attributes["StickySession"] != "on" {
				l.Attributes["StickySession"], l.Attributes["StickySessionType"] = "on", "insert"
				l.Attributes["CookieTimeout"] = strconv.Itoa(int(seconds))
			}
		case value != "" && value != "sch":
			r.wrong(scheduler, value, "spec.sessionAffinity is ClientIP: want sch, or no annotation")
		case w.Product == CLB:
			l.Attributes["Scheduler"] = "sch"
		default:
			l.Group["Scheduler"] = "sch"
		}
	}
}

// sources reads spec.loadBalancerSourceRanges. A range that contains all addresses is the same as none.
func (r *reader) sources(w *LoadBalancer) {
	for i, text := range r.svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || !p.Addr().Is4() {
			r.wrong(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), text, "want an IPv4 range, such as 192.0.2.0/24")
			w.SourcesWrong = true
			continue
		}
		w.Sources = append(w.Sources, p.Masked())
	}
	if w.SourcesWrong {
		w.Sources = nil
		for i := range w.Listeners {
			w.Listeners[i].Wrong = true
		}
		return
	}
	if slices.ContainsFunc(w.Sources, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		w.Sources = nil
		return
	}
	slices.SortFunc(w.Sources, netip.Prefix.Compare)
	w.Sources = slices.Compact(w.Sources)
	if len(w.Sources) == 0 {
		return
	}
	const field = "spec.loadBalancerSourceRanges"
	if w.ID != "" && (w.Product == NLB || !w.OwnListeners) {
		r.wrong(field, r.svc.Spec.LoadBalancerSourceRanges[0], "the load balancer "+w.ID+" is yours: say there who may connect")
		w.Sources = nil
	} else if key, v := r.get("security-group-ids"); v != "" && w.Product == NLB {
		r.wrong(key, v, "want none with "+field+": the rules of these groups let in others, too")
		w.SecurityGroups = nil
	}
}
