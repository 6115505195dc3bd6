"""Real hospitals: the plan that was compared in simulation, run where the records are.

Only signed messages with payloads of the byte formats travel: no code, no pickle, no record. The server drives the one
training loop and sees what a plan lets it see; each hospital runs a worker of its own that decides what leaves it.

    keys, certificates, agreement    who takes part, and what all of them approved
    envelope, body                   signed messages, and what is in them
    transport, loopback, grpc_engine how messages travel
    federation, runtime              the server's side
    site, site_work, site_log        a hospital's side
"""
