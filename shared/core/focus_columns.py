"""The columns of the FOCUS specification as a text table; `shared.core.focus` gives them types.

Derived from the FinOps Open Cost and Usage Specification (FOCUS) 1.0 to 1.4, © FinOps Foundation,
licensed under CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/). Changed: reduced to names,
types, levels, conditions and allowed values; ProviderName and PublisherName, which 1.4 removed, are
kept as nullable columns.
"""

from __future__ import annotations

# name | type, `+` when never negative | level, `?` when null is allowed | versions | category | condition | allowed
COLUMNS = """
AllocatedMethodDetails              | json      | recommended? | 1.3     | Allocation           | Supports data generator-calculated split cost allocation | -
AllocatedMethodId                   | text      | conditional? | 1.3     | Allocation           | Supports data generator-calculated split cost allocation | -
AllocatedResourceId                 | text      | conditional? | 1.3     | Allocation           | Supports data generator-calculated split cost allocation | -
AllocatedResourceName               | text      | conditional? | 1.3     | Allocation           | Supports data generator-calculated split cost allocation | -
AllocatedTags                       | json      | conditional? | 1.3     | Allocation           | Supports data generator-calculated split cost allocation | -
AvailabilityZone                    | text      | recommended? | 0.5     | Location             | Supports deploying resources or services within an availability zone | -
BilledCost                          | decimal   | mandatory    | 0.5     | Billing              | - | -
BillingAccountId                    | text      | mandatory    | 0.5     | Account              | - | -
BillingAccountName                  | text      | mandatory?   | 0.5     | Account              | - | -
BillingAccountType                  | text      | conditional  | 1.2     | Account              | Supports more than one possible BillingAccountType value | -
BillingCurrency                     | text      | mandatory    | 0.5     | Billing              | - | -
BillingPeriodEnd                    | timestamp | mandatory    | 0.5     | Timeframe            | - | -
BillingPeriodStart                  | timestamp | mandatory    | 0.5     | Timeframe            | - | -
CapacityReservationId               | text      | conditional? | 1.1     | Capacity Reservation | Supports capacity reservations | -
CapacityReservationStatus           | text      | conditional? | 1.1     | Capacity Reservation | Supports capacity reservations | Used, Unused
ChargeCategory                      | text      | mandatory    | 0.5     | Charge               | - | Usage, Purchase, Tax, Credit, Adjustment
ChargeClass                         | text      | mandatory?   | 1.0     | Charge               | - | Correction
ChargeDescription                   | text      | mandatory?   | 1.0     | Charge               | - | -
ChargeFrequency                     | text      | recommended  | 1.0     | Charge               | - | One-Time, Recurring, Usage-Based
ChargePeriodEnd                     | timestamp | mandatory    | 0.5     | Timeframe            | - | -
ChargePeriodStart                   | timestamp | mandatory    | 0.5     | Timeframe            | - | -
CommitmentDiscountCategory          | text      | conditional? | 1.0     | Commitment           | Supports commitment discounts | Spend, Usage
CommitmentDiscountId                | text      | conditional? | 1.0     | Commitment           | Supports commitment discounts | -
CommitmentDiscountName              | text      | conditional? | 1.0     | Commitment           | Supports commitment discounts | -
CommitmentDiscountQuantity          | decimal   | conditional? | 1.1     | Commitment           | Supports commitment discounts | -
CommitmentDiscountStatus            | text      | conditional? | 1.0     | Commitment           | Supports commitment discounts | Used, Unused
CommitmentDiscountType              | text      | conditional? | 1.0     | Commitment           | Supports commitment discounts | -
CommitmentDiscountUnit              | text      | conditional? | 1.1     | Commitment           | Supports commitment discounts | -
CommitmentProgramEligibilityDetails | json      | conditional? | 1.4     | Commitment           | Supports commitment programs | -
ConsumedQuantity                    | decimal   | conditional? | 1.0     | Billing              | Supports the measurement of usage | -
ConsumedUnit                        | text      | conditional? | 1.0     | Billing              | Supports the measurement of usage | -
ContractApplied                     | json      | conditional? | 1.3     | Contract             | Supports contract commitments | -
ContractedCost                      | decimal   | mandatory    | 1.0     | Billing              | - | -
ContractedUnitPrice                 | decimal+  | conditional? | 1.0     | Billing              | Supports negotiated pricing concepts | -
EffectiveCost                       | decimal   | mandatory    | 0.5     | Billing              | - | -
HostProviderName                    | text      | mandatory?   | 1.3     | Charge Origination   | - | -
InvoiceDetailId                     | text      | conditional? | 1.4     | Invoice              | Supports payable invoices | -
InvoiceId                           | text      | conditional? | 1.2     | Charge Origination   | Supports payable invoices | -
InvoiceIssuerName                   | text      | mandatory    | 0.5     | Charge Origination   | - | -
ListCost                            | decimal   | mandatory    | 1.0     | Billing              | - | -
ListUnitPrice                       | decimal+  | conditional? | 1.0     | Billing              | Publishes unit prices exclusive of discounts | -
PricingCategory                     | text      | conditional? | 1.0     | Pricing              | Supports more than one pricing category across all SKUs | Standard, Dynamic, Committed, Other
PricingCurrency                     | text      | conditional  | 1.2     | Pricing              | Supports pricing and billing in different currencies | -
PricingCurrencyContractedUnitPrice  | decimal+  | conditional? | 1.2     | Pricing              | Supports prices in virtual currency and publishes unit prices exclusive of discounts | -
PricingCurrencyEffectiveCost        | decimal   | conditional  | 1.2     | Pricing              | Supports prices in virtual currency and publishes unit prices exclusive of discounts | -
PricingCurrencyListUnitPrice        | decimal+  | conditional? | 1.2     | Pricing              | Supports prices in virtual currency and publishes unit prices exclusive of discounts | -
PricingQuantity                     | decimal   | mandatory?   | 1.0     | Pricing              | - | -
PricingUnit                         | text      | mandatory?   | 1.0     | Pricing              | - | -
ProviderName                        | text      | mandatory    | 0.5-1.3 | Charge Origination   | - | -
PublisherName                       | text      | mandatory    | 0.5-1.3 | Charge Origination   | - | -
RegionId                            | text      | conditional? | 1.0     | Location             | Supports deploying resources or services within a region | -
RegionName                          | text      | conditional? | 1.0     | Location             | Supports deploying resources or services within a region | -
ResourceId                          | text      | conditional? | 0.5     | Resource             | Supports billing based on provisioned resources | -
ResourceName                        | text      | conditional? | 0.5     | Resource             | Supports billing based on provisioned resources | -
ResourceType                        | text      | conditional? | 1.0     | Resource             | Supports billing based on provisioned resources and supports assigning types to resources | -
ServiceCategory                     | text      | mandatory    | 0.5     | Service              | - | AI and Machine Learning, Analytics, Business Applications, Compute, Databases, Developer Tools, Multicloud, Identity, Integration, Internet of Things, Management and Governance, Media, Migration, Mobile, Networking, Security, Storage, Web, Other
ServiceName                         | text      | mandatory    | 0.5     | Service              | - | -
ServiceProviderName                 | text      | mandatory    | 1.3     | Charge Origination   | - | -
ServiceSubcategory                  | text      | recommended  | 1.1     | Service              | - | -
SkuId                               | text      | conditional? | 1.0     | SKU                  | Supports unit pricing concepts and publishes price lists, publicly or as part of contracting | -
SkuMeter                            | text      | conditional? | 1.1     | SKU                  | Supports unit pricing concepts and publishes price lists, publicly or as part of contracting | -
SkuPriceDetails                     | json      | conditional? | 1.1     | SKU                  | Supports unit pricing concepts and publishes price lists, publicly or as part of contracting | -
SkuPriceId                          | text      | conditional? | 1.0     | SKU                  | Supports unit pricing concepts and publishes price lists, publicly or as part of contracting | -
SubAccountId                        | text      | conditional? | 0.5     | Account              | Supports a sub account construct | -
SubAccountName                      | text      | conditional? | 0.5     | Account              | Supports a sub account construct | -
SubAccountType                      | text      | conditional? | 1.2     | Account              | Supports more than one possible SubAccountType value | -
Tags                                | json      | conditional? | 1.0     | Resource             | Supports setting user or provider-defined tags | -
"""

# ServiceCategory: the values of ServiceSubcategory that belong to it.
SUBCATEGORIES = """
AI and Machine Learning: AI Platforms, Bots, Generative AI, Machine Learning, Natural Language Processing, Other (AI and Machine Learning)
Analytics: Analytics Platforms, Business Intelligence, Data Processing, Other (Analytics), Search, Streaming Analytics
Business Applications: Other (Business Applications), Productivity and Collaboration
Compute: Containers, End User Computing, Other (Compute), Quantum Compute, Serverless Compute, Virtual Machines
Databases: Caching, Data Warehouses, Ledger Databases, NoSQL Databases, Other (Databases), Relational Databases, Time Series Databases
Developer Tools: Continuous Integration and Deployment, Developer Platforms, Development Environments, Other (Developer Tools), Quality Assurance, Source Code Management
Identity: Identity and Access Management, Other (Identity)
Integration: API Management, Messaging, Other (Integration), Workflow Orchestration
Internet of Things: IoT Analytics, IoT Platforms, Other (Internet of Things)
Management and Governance: Architecture, Compliance, Cost Management, Data Governance, Disaster Recovery, Endpoint Management, Observability, Other (Management and Governance), Support
Media: Content Creation, Gaming, Media Streaming, Mixed Reality, Other (Media)
Migration: Data Migration, Other (Migration), Resource Migration
Mobile: Other (Mobile)
Multicloud: Multicloud Integration, Other (Multicloud)
Networking: Application Networking, Content Delivery, Network Connectivity, Network Infrastructure, Network Routing, Network Security, Other (Networking)
Other: Other (Other)
Security: Other (Security), Secret Management, Security Posture Management, Threat Detection and Response
Storage: Backup Storage, Block Storage, File Storage, Object Storage, Other (Storage), Storage Platforms
Web: Application Platforms, Other (Web)
"""
