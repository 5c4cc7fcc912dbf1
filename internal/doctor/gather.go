package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"syscall"

	"brane/internal/linux/netlink"
	"brane/internal/linux/probe"
)

// Gather asks the machine. It leaves nothing behind. What comes after the
// context's end stays unknown.
func Gather(ctx context.Context) Facts {
	root := os.DirFS("/")
	f := Facts{
		Kernel:     probe.KernelVersion(),
		Root:       os.Geteuid() == 0,
		RuntimeDir: os.Getenv("XDG_RUNTIME_DIR"),
	}
	if u, err := user.Current(); err == nil {
		f.User = u.Username
	}
	f.RuntimeErr = usable(f.RuntimeDir)
	for name, to := range map[string]*string{
		"user/max_user_namespaces":                     &f.MaxUserNamespaces,
		"kernel/unprivileged_userns_clone":             &f.UnprivilegedClone,
		"kernel/apparmor_restrict_unprivileged_userns": &f.AppArmorRestricts,
		"net/ipv4/ping_group_range":                    &f.PingGroupRange,
	} {
		*to, _ = probe.Sysctl(root, name)
	}
	for _, p := range []struct {
		to  *probe.Result
		ask func() probe.Result
	}{
		{&f.UserNamespaces, probe.UserNamespaces},
		{&f.Nested, probe.NestedUserNamespaces},
		{&f.Tun, probe.Tun},
		{&f.Ping, probe.Ping},
		{&f.PeerPIDFD, probe.PeerPIDFD},
		{&f.Seccomp, probe.Seccomp},
		{&f.Landlock, probe.Landlock},
		{&f.USO, probe.USO},
		{&f.TCX, probe.TCX},
		{&f.BPFToken, probe.BPFToken},
		{&f.Linger, func() probe.Result { return probe.Linger(root, f.User) }},
	} {
		if err := ctx.Err(); err != nil {
			*p.to = probe.Result{Answer: probe.Unknown, Why: err.Error()}
			continue
		}
		*p.to = p.ask()
	}
	f.Host, f.HostErr = hostPrefixes()
	return f
}

// usable says why a runtime directory cannot be used.
func usable(dir string) error {
	if dir == "" {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 || !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a directory of this account alone: %w", dir, fs.ErrPermission)
	}
	return nil
}

func hostPrefixes() ([]netip.Prefix, error) {
	h, err := netlink.Open()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.HostPrefixes()
}
