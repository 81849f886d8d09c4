//! VMs, vCPU loops and page-fault reports on /dev/kvm.
