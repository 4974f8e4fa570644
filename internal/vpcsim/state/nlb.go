package state

import (
	"errors"
	"slices"
	"strconv"
)

// NLBActions are the actions of network load balancers. Their names begin with NLB, because other
// products have actions of the same names. Those that return a jobId have started a job; they
// refuse a resource on which one runs.
type NLBActions interface {
	// Load balancers
	NLBCreateLoadBalancer(NLBCreateLoadBalancerRequest) (loadBalancerId string, err error)
	NLBDeleteLoadBalancer(NLBLoadBalancerRequest) (jobId string, err error)
	NLBGetLoadBalancerAttribute(NLBLoadBalancerRequest) (*NLBLoadBalancer, error)
	NLBListLoadBalancers(NLBListLoadBalancersRequest) ([]NLBLoadBalancer, error)
	NLBUpdateLoadBalancerAttribute(NLBUpdateLoadBalancerAttributeRequest) (jobId string, err error)
	NLBUpdateLoadBalancerProtection(NLBUpdateLoadBalancerProtectionRequest) error
	NLBUpdateLoadBalancerZones(NLBUpdateLoadBalancerZonesRequest) (jobId string, err error)
	NLBUpdateLoadBalancerAddressTypeConfig(NLBUpdateLoadBalancerZonesRequest) (jobId string, err error)
	NLBLoadBalancerJoinSecurityGroup(NLBSecurityGroupsRequest) (jobId string, err error)
	NLBLoadBalancerLeaveSecurityGroup(NLBSecurityGroupsRequest) (jobId string, err error)

	// Listeners
	NLBCreateListener(NLBCreateListenerRequest) (*NLBCreateResult, error)
	NLBUpdateListenerAttribute(NLBUpdateListenerAttributeRequest) (jobId string, err error)
	NLBStartListener(NLBListenerRequest) (jobId string, err error)
	NLBStopListener(NLBListenerRequest) (jobId string, err error)
	NLBDeleteListener(NLBListenerRequest) (jobId string, err error)
	NLBGetListenerAttribute(NLBListenerRequest) (*NLBListener, error)
	NLBListListeners(NLBListListenersRequest) ([]NLBListener, error)
	NLBGetListenerHealthStatus(NLBListenerRequest) (*NLBListenerHealth, error)

	// Server groups
	NLBCreateServerGroup(NLBCreateServerGroupRequest) (*NLBCreateResult, error)
	NLBUpdateServerGroupAttribute(NLBUpdateServerGroupAttributeRequest) (jobId string, err error)
	NLBDeleteServerGroup(NLBDeleteServerGroupRequest) (jobId string, err error)
	NLBListServerGroups(NLBListServerGroupsRequest) ([]NLBServerGroup, error)
	NLBAddServersToServerGroup(NLBServersRequest) (jobId string, err error)
	NLBRemoveServersFromServerGroup(NLBServersRequest) (jobId string, err error)
	NLBUpdateServerGroupServersAttribute(NLBServersRequest) (jobId string, err error)
	NLBListServerGroupServers(NLBListServerGroupServersRequest) ([]NLBServer, error)

	// Jobs
	NLBGetJobStatus(jobId string) (*NLBJob, error)
	NLBListAsynJobs(NLBJobsRequest) ([]NLBJob, error)

	// Faults
	// SetStuckJobs keeps jobs in Processing; false lets them finish.
	SetStuckJobs(stuck bool)
	// SetFailingJobs makes jobs fail: what they were to change stays as it was.
	SetFailingJobs(fail bool)
}

// NLBCreateResult is the answer of CreateListener and CreateServerGroup.
type NLBCreateResult struct{ Id, JobId string }

// nlbMany are the resources of NLB.
type nlbMany struct {
	NLBLoadBalancers map[string]*NLBLoadBalancer `json:",omitempty"`
	NLBListeners     map[string]*NLBListener     `json:",omitempty"`
	NLBServerGroups  map[string]*NLBServerGroup  `json:",omitempty"`
	NLBJobs          map[string]*NLBJob          `json:",omitempty"`
}

// nlbFew are the faults of NLB.
type nlbFew struct {
	StuckJobs   bool `json:",omitempty"`
	FailingJobs bool `json:",omitempty"`
}

// Prefixes of the ids of the service's resources.
const (
	idNLB         = "nlb-"
	idNLBListener = "lsn-"
	idNLBGroup    = "sgp-"
)

// opNLBJob is the operation of a job; its ID is the job's.
const opNLBJob kind = "nlb-job"

// ProductNLB is this product in Balancer.Product.
const ProductNLB = "NLB"

var nlbProduct = product{
	complete: func(d *data) {
		ensure(&d.NLBLoadBalancers)
		ensure(&d.NLBListeners)
		ensure(&d.NLBServerGroups)
		ensure(&d.NLBJobs)
	},
	check:      checkNLB,
	operations: map[kind]completion{opNLBJob: {hasNLBJob, (*State).finishNLBJob}},
	tagged: map[string]func(*data, []string) []taggable{
		"nlb:loadbalancer": tagged(nlbsIn, func(b *NLBLoadBalancer) *[]Tag { return &b.Tags }),
		"nlb:listener":     tagged(nlbListenersIn, func(l *NLBListener) *[]Tag { return &l.Tags }),
		"nlb:servergroup":  tagged(nlbGroupsIn, func(g *NLBServerGroup) *[]Tag { return &g.Tags }),
	},
	view:    func(s *State, view *View) { view.Balancers = s.appendNLBs(view.Balancers) },
	holds:   holdNLB,
	checked: checkedNLB,
	uses:    nlbUses,
	records: []record{
		recordOf[NLBLoadBalancer](func(m *many) *map[string]*NLBLoadBalancer { return &m.NLBLoadBalancers }),
		recordOf[NLBListener](func(m *many) *map[string]*NLBListener { return &m.NLBListeners }),
		recordOf[NLBServerGroup](func(m *many) *map[string]*NLBServerGroup { return &m.NLBServerGroups }),
		recordOf[NLBJob](func(m *many) *map[string]*NLBJob { return &m.NLBJobs }),
	},
}

func nlbsIn(d *data) map[string]*NLBLoadBalancer     { return d.NLBLoadBalancers }
func nlbListenersIn(d *data) map[string]*NLBListener { return d.NLBListeners }
func nlbGroupsIn(d *data) map[string]*NLBServerGroup { return d.NLBServerGroups }

// hasNLBJob reports whether a job and its resource exist.
func hasNLBJob(d *data, id string) bool {
	job := d.NLBJobs[id]
	return job != nil && (d.NLBLoadBalancers[job.ResourceId] != nil || d.NLBListeners[job.ResourceId] != nil || d.NLBServerGroups[job.ResourceId] != nil)
}

func checkNLB(d *data) error {
	for id, b := range d.NLBLoadBalancers {
		if b == nil || b.LoadBalancerId != id || !b.fits(d) {
			return broken("network load balancer", id, "is in no VPC, or has a vSwitch, an EIP or a security group that does not exist")
		}
	}
	for id, g := range d.NLBServerGroups {
		if g == nil || g.ServerGroupId != id || d.VPCs[g.VpcId] == nil {
			return broken("server group", id, "is in no VPC")
		}
	}
	for id, l := range d.NLBListeners {
		if l == nil || l.ListenerId != id || !l.fits(d) {
			return broken("listener", id, "is on no load balancer or has no server group")
		}
	}
	running := map[string]bool{}
	for _, o := range d.Operations {
		if o.Kind == opNLBJob {
			running[o.ID] = true
		}
	}
	for id, job := range d.NLBJobs {
		switch {
		case job == nil || job.JobId != id || (job.Status == NLBJobProcessing) != running[id]:
			return broken("job", id, "never ends, or ends twice")
		case job.Status == NLBJobProcessing && (!job.Success.follows(d, job.ResourceId) || !job.Failure.follows(d, job.ResourceId)):
			return broken("job", id, "is about a resource that does not exist")
		}
	}
	return nil
}

func (b *NLBLoadBalancer) fits(d *data) bool {
	return d.VPCs[b.VpcId] != nil &&
		!slices.ContainsFunc(b.ZoneMappings, func(z NLBZoneMapping) bool {
			return d.VSwitches[z.VSwitchId] == nil || !z.PrivateIPv4Address.Is4() || z.AllocationId != "" && d.EIPs[z.AllocationId] == nil
		}) &&
		!slices.ContainsFunc(b.SecurityGroupIds, func(g string) bool { return d.SecurityGroups[g] == nil })
}

func (l *NLBListener) fits(d *data) bool {
	return d.NLBLoadBalancers[l.LoadBalancerId] != nil && d.NLBServerGroups[l.ServerGroupId] != nil
}

// follows reports whether a resource can become r.
func (r *nlbResource) follows(d *data, id string) bool {
	switch {
	case r == nil: // a job on servers
		return d.NLBServerGroups[id] != nil
	case d.NLBLoadBalancers[id] != nil:
		return r.LoadBalancer == nil || r.LoadBalancer.LoadBalancerId == id && r.LoadBalancer.fits(d)
	case d.NLBListeners[id] != nil:
		return r.Listener == nil || r.Listener.ListenerId == id && r.Listener.fits(d)
	}
	return r.ServerGroup == nil || r.ServerGroup.ServerGroupId == id && d.VPCs[r.ServerGroup.VpcId] != nil
}

// Errors of NLB, whose codes name what they are about.

func nlbMissing(parameter string) *Error {
	return badRequest("MissingParam."+parameter, "The parameter of %s is missing.", parameter)
}

func nlbIllegal(parameter string, value any, want string) *Error {
	return badRequest("IllegalParam."+parameter, "The param of %s is illegal: %v, expected %s.", parameter, value, want)
}

func nlbNotFound(what, id string) *Error {
	return notFound("ResourceNotFound."+what, "The specified resource of %s is not found: %q.", what, id)
}

func nlbQuota(what string, used, most int) *Error {
	return badRequest("QuotaExceeded.QuotaInsufficient", "The quota of %s is exceeded, usage %d/%d.", what, used, most)
}

func nlbLocked(id string) *Error {
	return badRequest("Conflict.Lock", "The Lock [%s] is conflict.", id)
}

func nlbUnsupported(parameter string) *Error {
	return badRequest("UnsupportedParameter", "The simulator does not support %s.", parameter)
}

// nlbOnce is once with the code that NLB has for another request with the same token.
func nlbOnce[Request, Answer any](s *State, action, token string, request Request, work func() (Answer, error)) (Answer, error) {
	answer, err := once(s, "Nlb:"+action, token, request, work)
	var refusal *Error
	if errors.As(err, &refusal) && refusal.Code == "IdempotentParameterMismatch" {
		err = badRequest("IdempotenceSignatureMismatch", "The idempotence token of request is same with the prev one, but the signature is different.")
	}
	return answer, err
}

// nlbText checks a name or a description: characters of a length from 2 to most, of those in
// marks, letters, digits and others that are no ASCII.
func nlbText(parameter, text string, most int, marks string) error {
	n := 0
	for _, r := range text {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 0x7f
		if !letter && (r < '0' || r > '9') && !slices.Contains([]rune(marks), r) {
			return nlbIllegal(parameter, text, "letters, digits and "+marks)
		}
		n++
	}
	if n < 2 || n > most {
		return nlbIllegal(parameter, text, "2 to "+strconv.Itoa(most)+" characters")
	}
	return nil
}

// nlbName checks the name of a load balancer or a server group.
func nlbName(parameter, name string) error {
	if name != "" && (name[0] >= '0' && name[0] <= '9' || name[0] == '.' || name[0] == '_' || name[0] == '-') {
		return nlbIllegal(parameter, name, "a letter first")
	}
	return nlbText(parameter, name, 128, "._-")
}

const nlbDescriptionMarks = ",.;/@_-"

// nlbRange checks a number.
func nlbRange(parameter string, n *int, from, to int) error {
	if n != nil && (*n < from || *n > to) {
		return nlbIllegal(parameter, *n, strconv.Itoa(from)+" to "+strconv.Itoa(to))
	}
	return nil
}
