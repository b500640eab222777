-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+
-- also: definition

-- @setup
CREATE TABLE parted (id int) PARTITION BY RANGE (id)

ALTER TABLE parted OWNER TO app_user

-- @run
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))) TO (1000)
